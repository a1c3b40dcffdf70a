"""Emulated networks, for real: ``bash scripts/test.sh -m netns`` as root."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support import commands
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
from tokenring_xdit.errors import ConfigurationError, LaunchError, NetworkError
from tokenring_xdit.lab.network import (
    INIT_METHOD_VARIABLE,
    EmulatedNetwork,
    Rate,
    emulate,
    load_network,
    parse_network,
    refuse_slow,
    remove_stale,
    run_ranks,
    self_test,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

FLOOD = Path(__file__).with_name("flood.py")

HOLD = """
import sys
from tokenring_xdit.lab.network import *
with emulate(parse_network(sys.argv[1])) as network:
    print(network.id, flush=True)
    {then}
"""


def namespaces(id_: str = "trx-") -> list[str]:
    """Names of the network namespaces there are, asked of the file system."""
    folder = Path("/run/netns")
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(id_)) if folder.exists() else []


def flood(emulated: EmulatedNetwork, source: str, destination: str, size: int, back: int) -> tuple[float, float]:
    """Send ``size`` bytes and ``back`` bytes the other way over one connection.

    Returns:
        The payload rates there and back, bits a second.
    """

    def start(host: str, *arguments: object) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", emulated.namespace(host), sys.executable, str(FLOOD), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    address = emulated.address(destination)
    with start(destination, address, back, size, "listen") as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        with start(source, address, size, back) as client:
            seconds_back = float(client.communicate(timeout=60)[0])
        seconds = float(server.communicate(timeout=60)[0])
    return size * 8 / seconds, back * 8 / seconds_back


def reaches(emulated: EmulatedNetwork, source: str, destination: str, there: Rate, back: Rate | None = None) -> None:
    """Check that a second's worth of bytes travels at the stated rates, within 10%.

    Tried again where it falls short: whatever else runs on this machine takes time from the network.
    """
    stated = [there.bits_per_second, back.bits_per_second if back is not None else 0]
    tries = []
    for _ in range(5):
        tries.append(flood(emulated, source, destination, *(bits // 8 for bits in stated)))
        assert all(rate <= 1.1 * bits for rate, bits in zip(tries[-1], stated, strict=True)), tries
        if all(rate >= 0.9 * bits for rate, bits in zip(tries[-1], stated, strict=True)):
            return
    pytest.fail(f"{source} and {destination} exchanged {tries} of {stated} bit/s")


def hold(form: str, then: str = "import time; time.sleep(600)") -> subprocess.Popen[str]:
    """A process that builds a network and does something inside; the first line it prints is the network's id."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(condition: Callable[[], bool], what: str, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"after {patience} s it is still not so that {what}"
        time.sleep(0.02)


def sleepers(seconds: str) -> list[int]:
    """Processes that sleep for so long; not those that are about to become one."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", seconds]]


def command_output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tcp_counts(emulated: EmulatedNetwork, node: str) -> dict[str, int]:
    """What the kernel has counted of TCP in a node; ``TCPOFOQueue``: packets that came before one sent earlier."""
    lines = command_output(emulated.inside(node, ["cat", "/proc/net/netstat"])).splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("TcpExt:"))
    return dict(zip(names, map(int, values), strict=True))


# -- rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "pairs"),
    [
        ("mesh:4:100mbit", [("h0", "h1", "100mbit"), ("h1", "h3", "100mbit")]),
        ("star:4:100mbit", [("h0", "h1", "100mbit"), ("h3", "h2", "100mbit")]),
        ("ring:4:50mbit", [("h0", "h1", "50mbit"), ("h3", "h1", "50mbit")]),
        ("two-level:2x2:100mbit:40mbit", [("h0", "h1", "100mbit"), ("h1", "h2", "40mbit")]),
    ],
)
def test_hosts_reach_each_other_at_the_stated_rate_one_way_and_both_ways(
    form: str, pairs: list[tuple[str, str, str]]
) -> None:
    with emulate(parse_network(form)) as emulated:
        for source, destination, text in pairs:
            reaches(emulated, source, destination, Rate.parse(text))
            reaches(emulated, source, destination, Rate.parse(text), Rate.parse(text))


def test_directions_of_a_link_have_rates_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "uneven.yaml"
    path.write_text("{hosts: 2, links: [{between: [h0, h1], rate: 80mbit, back: 20mbit}]}")
    with emulate(load_network(str(path))) as emulated:
        reaches(emulated, "h0", "h1", Rate.parse("80mbit"), Rate.parse("20mbit"))
        refuse_slow(self_test(emulated))


# -- the self-test ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mesh:4:100mbit", "star:4:100mbit", "ring:4:100mbit", "two-level:2x2:100mbit:50mbit"])
def test_the_self_test_takes_a_good_network(form: str) -> None:
    with emulate(parse_network(form)) as emulated:
        report = self_test(emulated)
    refuse_slow(report)
    assert [entry.link for entry in report.links] == list(emulated.network.links)


def test_nothing_is_lost_overtaken_or_cut() -> None:
    """While ranks keep the processors busy too: TCP would send again what it misses, and slow down.

    Where a slow link cut into frames what a fast one brings, packets there would be of 2 KB (measured), with
    acknowledgements, which are as many as without.
    """
    with emulate(parse_network("two-level:2x2:1gbit:100mbit")) as emulated:
        run_ranks(emulated, [sys.executable, "-m", "tests.lab.network.crowding_rank"])
        for node in emulated.network.nodes:
            queues = command_output(["tc", "-n", emulated.namespace(node), "-s", "-j", "qdisc"])
            assert {queue["drops"] for queue in json.loads(queues)} == {0}
        counts = [tcp_counts(emulated, node) for node in emulated.network.nodes]
        links = json.loads(command_output(["ip", "-n", emulated.namespace("core"), "-s", "-j", "link"]))
    assert sum(count["TCPOFOQueue"] for count in counts) <= 2
    brought = [link["stats64"]["rx"] for link in links if link["ifname"].startswith("link")]
    assert len(brought) == 2
    assert all(link["bytes"] > 5000 * link["packets"] for link in brought)


def test_a_network_that_is_slower_than_it_states_is_refused() -> None:
    with emulate(parse_network("mesh:3:50mbit")) as emulated:
        boast = dataclasses.replace(emulated, network=parse_network("mesh:3:100mbit"))
        report = self_test(boast)
        assert all(0.4 < f.share < 0.55 for w in report.links for f in (w.one_way, w.there, w.back))
        with pytest.raises(NetworkError, match=r"carried 4\d(\.\d)? of 100 Mbit/s"):
            refuse_slow(report)


def test_a_network_that_is_faster_than_it_states_is_refused() -> None:
    with emulate(parse_network("mesh:2:100mbit")) as emulated:
        report = self_test(dataclasses.replace(emulated, network=parse_network("mesh:2:50mbit")))
        with pytest.raises(NetworkError, match="limits are not in force"):
            refuse_slow(report)


def test_one_slow_direction_of_one_link_is_named() -> None:
    with emulate(parse_network("star:3:100mbit")) as emulated:
        for class_ in ("1:1", "1:20"):  # what the switch sends to h2
            subprocess.run(
                ["tc", "-n", emulated.namespace("switch"), "class", "change", "dev", "link2", "parent"]
                + (["1:"] if class_ == "1:1" else ["1:1"])
                + ["classid", class_, "htb", "rate", "60mbit", "ceil", "60mbit"],
                check=True,
            )
        report = self_test(emulated)
        assert [w.link.a for w in report.links if not (w.there.good and w.back.good)] == ["h2"]
        assert report.links[2].one_way.good
        with pytest.raises(NetworkError, match=r"from (switch|h1) to h2 carried 5\d(\.\d)? of 100 Mbit/s"):
            refuse_slow(report)


def test_a_link_that_carries_nothing_is_refused() -> None:
    with emulate(parse_network("mesh:3:100mbit")) as emulated:
        subprocess.run(["ip", "-n", emulated.namespace("h1"), "link", "set", "link2", "down"], check=True)
        with pytest.raises(NetworkError, match=r"carried 0 of 100 Mbit/s \(0%\)"):
            refuse_slow(self_test(emulated))


# -- building and removing -------------------------------------------------------------------------


def surroundings() -> dict[str, str]:
    """Network settings and devices of the machine itself."""
    found = {"devices": " ".join(sorted(os.listdir("/sys/class/net")))}
    for path in Path("/proc/sys/net").rglob("*"):
        if path.is_file() and os.access(path, os.R_OK):
            try:
                found[str(path)] = path.read_text()
            except OSError:  # write-only
                continue
    return found


def test_nothing_outside_is_changed_and_nothing_is_left() -> None:
    before = surroundings()
    assert len(before) > 50
    with emulate(parse_network("two-level:2x2:1gbit:100mbit")) as emulated:
        assert len(namespaces(emulated.id)) == 7
        assert emulated.folder.is_dir()
        assert surroundings() == before
    assert namespaces(emulated.id) == []
    assert not emulated.folder.exists()
    assert surroundings() == before


def test_an_error_inside_removes_the_network_and_its_processes() -> None:
    word = f"600.{os.getpid()}"

    def fail() -> None:
        with emulate(parse_network("mesh:2:10mbit")) as emulated:
            started.append(subprocess.Popen(emulated.inside("h1", ["sleep", word])))
            until(lambda: bool(sleepers(word)), "the sleeper is there")
            raise ZeroDivisionError(emulated.id)

    started: list[subprocess.Popen[bytes]] = []
    with pytest.raises(ZeroDivisionError) as error:
        fail()
    assert namespaces(str(error.value)) == []
    assert started[0].wait(timeout=10) == -signal.SIGKILL


def test_networks_that_exist_at_once_do_not_see_each_other() -> None:
    with emulate(parse_network("mesh:2:100mbit")) as one, emulate(parse_network("mesh:2:20mbit")) as other:
        assert one.id != other.id
        assert remove_stale() == ()
        with hold("mesh:2:10mbit") as process:
            assert process.stdout is not None
            third = process.stdout.readline().strip()
            assert len(namespaces(third)) == 2
            assert remove_stale() == ()
            process.terminate()
        assert namespaces(third) == []
        assert len(namespaces(one.id)) == len(namespaces(other.id)) == 2
        reaches(other, "h0", "h1", Rate.parse("20mbit"))
        reaches(one, "h0", "h1", Rate.parse("100mbit"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_the_network_and_its_ranks(signum: signal.Signals) -> None:
    word = f"600.{os.getpid()}{int(signum)}"
    with hold("ring:3:10mbit", f"run_ranks(network, ['sleep', '{word}'])") as process:
        assert process.stdout is not None
        id_ = process.stdout.readline().strip()
        until(lambda: len(sleepers(word)) == 3, "three ranks run")
        process.send_signal(signum)
        assert process.wait(timeout=60) == (-signal.SIGINT if signum is signal.SIGINT else 128 + signum)
    assert id_.startswith("trx-")
    assert namespaces(id_) == []
    assert sleepers(word) == []


def test_a_signal_while_the_network_is_being_built_removes_what_there_is() -> None:
    with hold("mesh:12:10mbit") as process:
        id_ = f"trx-{process.pid}-"
        until(lambda: bool(namespaces(id_)), "the first namespace exists")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == -signal.SIGINT
        assert process.stdout is not None
        assert process.stdout.read() == ""  # it did not get to its first line
    assert namespaces(id_) == []


@pytest.mark.parametrize("by", ["start", "command"])
def test_what_a_killed_process_left_is_removed_next_time(by: str) -> None:
    word = f"600.{os.getpid()}"
    with hold("ring:3:10mbit", f"run_ranks(network, ['sleep', '{word}'])") as process:
        assert process.stdout is not None
        id_ = process.stdout.readline().strip()
        until(lambda: len(sleepers(word)) == 3, "three ranks run")
        stray = subprocess.Popen(["ip", "netns", "exec", f"{id_}-h0", "sleep", "600"])
        process.kill()
    until(lambda: not sleepers(word), "the ranks have ended with the process that started them")
    assert len(namespaces(id_)) == 3
    if by == "start":
        with emulate(parse_network("mesh:2:10mbit")):
            assert namespaces(id_) == []
    else:
        result = commands.run("network", "clean", "--json")
        assert json.loads(result.stdout) == [id_]
    assert namespaces(id_) == []
    assert not (Path("/run/tokenring-xdit") / id_).exists()
    assert stray.wait(timeout=10) == -signal.SIGKILL


# -- ranks -----------------------------------------------------------------------------------------


def test_ranks_run_in_their_own_hosts() -> None:
    script = "echo $RANK $WORLD_SIZE $MASTER_ADDR $GLOO_SOCKET_IFNAME $WORD; ip -o -4 addr show dev net0; echo hm >&2"
    with emulate(parse_network("star:3:10mbit")) as emulated:
        outputs = run_ranks(emulated, ["sh", "-c", script], environment={"WORD": "hello"})
        assert len(run_ranks(emulated, ["true"], ranks=2)) == 2
        addresses = [emulated.address(host) for host in emulated.network.hosts]
    assert len(outputs) == 3 == len(set(addresses))
    for rank, output in enumerate(outputs):
        first, second = output.stdout.splitlines()
        assert first == f"{rank} 3 {addresses[0]} net0 hello"
        assert f" {addresses[rank]}/32 " in second
        assert output.stderr == "hm\n"


def test_a_rank_that_fails_ends_the_others() -> None:
    word = f"700.{os.getpid()}"
    # Rank 0 does not want to end, and rank 2 leaves a process behind.
    script = (
        f'case $RANK in 0) trap "" TERM; sleep {word}; sleep {word};; 1) sleep 0.5; echo "no luck" >&2; exit 3;; '
        f"2) setsid sleep {word} & wait;; esac"
    )
    with emulate(parse_network("star:3:10mbit")) as emulated:
        with pytest.raises(LaunchError, match=r"rank 1 \(host h1\) ended with exit code 3 \(process \d+\): no luck"):
            run_ranks(emulated, ["sh", "-c", script])
        assert sleepers(word) == []


def test_a_rank_that_is_killed_is_named() -> None:
    with (
        emulate(parse_network("mesh:2:10mbit")) as emulated,
        pytest.raises(LaunchError, match=r"rank 1 \(host h1\) was killed by SIGKILL"),
    ):
        run_ranks(emulated, ["sh", "-c", "[ $RANK = 0 ] && sleep 600; kill -9 $$"])


def test_ranks_that_hang_are_ended() -> None:
    with emulate(parse_network("mesh:2:10mbit")) as emulated:
        with pytest.raises(LaunchError, match=r"ranks \[0\] did not end within 1 seconds"):
            run_ranks(emulated, ["sh", "-c", "[ $RANK = 1 ] || sleep 600"], timeout=1)
        with pytest.raises(ConfigurationError, match="3 ranks do not fit into network 'mesh:2:10mbit'"):
            run_ranks(emulated, ["true"], ranks=3)


@pytest.mark.parametrize(
    ("form", "variables"),
    [
        ("mesh:4:100mbit", {}),
        ("ring:4:100mbit", {INIT_METHOD_VARIABLE: "env://"}),  # the ranks meet at the first host, as under torchrun
        ("mesh:4:100mbit", {TRANSPORT_VARIABLE: "symmetric"}),  # they share a machine, and must not share its memory
    ],
)
def test_attention_over_four_hosts_is_exact_and_goes_over_the_links(form: str, variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tests.lab.network.attention_rank"]
    with emulate(parse_network(form)) as emulated:
        outputs = run_ranks(emulated, command, environment=variables, timeout=300)
        answers = [json.loads(output.stdout.splitlines()[-1]) for output in outputs]
        for rank, answer in enumerate(answers):
            assert answer["rank"] == rank
            assert max(answer["errors"]) < 1e-5
            assert answer["bytes_sent"] > 100_000
            namespace = emulated.namespace(f"h{rank}")
            links = json.loads(subprocess.check_output(["ip", "-n", namespace, "-s", "-j", "link"]))
            sent = sum(link["stats64"]["tx"]["bytes"] for link in links if link["ifname"].startswith("link"))
            assert sent > answer["bytes_sent"]
