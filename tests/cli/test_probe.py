from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support import commands
from tokenring_xdit.cli import main
from tokenring_xdit.topology import Network, load_topology, parse_network

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

PAYLOAD = 1448 / 1514
"""Of an Ethernet frame on the link, what TCP carries for a program."""


def rates(network: Network) -> list[float]:
    """Of all pairs of hosts, the slowest link between them."""
    hosts = network.hosts
    return [network.slowest_rate(a, b).bits_per_second for a in hosts for b in hosts if a != b]


@pytest.mark.netns
@needs_root
@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ("mesh:4:60mbit", "mesh"),
        ("star:4:80mbit", "star"),
        ("ring:4:80mbit", "ring"),
        ("two-level:2x2:160mbit:60mbit", "two-level"),
    ],
)
def test_networks_of_known_shape_are_found_with_their_rates(form: str, shape: str, tmp_path: Path) -> None:
    output = tmp_path / "found.yaml"
    result = commands.run("probe", "--network", form, "--output", str(output), "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["shape"] == shape
    assert len(told["topology"]["links"]) == len(load_topology(str(output)).links)
    found, true = load_topology(str(output)), parse_network(form)
    assert len(found.hosts) == 4
    stated = [PAYLOAD * rate for rate in rates(true)]
    assert rates(found) == pytest.approx(stated, rel=0.1)


@pytest.mark.e2e
def test_ranks_of_this_machine_are_probed_for_schedule_auto(tmp_path: Path) -> None:
    """What is found here depends on the cores; that it is told, and kept only if something was found, does not."""
    result = commands.run(
        "probe", "--ranks", "2", "--quick", "--seconds", "3", environment={"XDG_CACHE_HOME": str(tmp_path)}
    )
    kept = list((tmp_path / "tokenring-xdit").glob("topology-*-2.yaml"))
    assert "Gbit/s, payload, one pair at a time" in result.stdout
    if result.returncode == 0:
        assert [f"kept for schedule auto: {path}" in result.stderr for path in kept] == [True]
        assert len(load_topology(str(kept[0])).hosts) == 2
    else:
        assert (result.returncode, kept) == (1, [])
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "1"], "--ranks 1: a link joins two ranks"),
        (["--ranks", "65"], "more than the 64 that one machine starts"),
        (["--network", "mesh:4:1gbit", "--ranks", "5"], "--ranks 5 do not fit into network 'mesh:4:1gbit'"),
        (["--network", "mash:4:1gbit"], "Did you mean 'mesh'?"),
        (["--seconds", "0"], "--seconds 0 is no time"),
        (["--output", "found.json"], "has to end in .yaml"),
        (["--output", "/dev/null/found.yaml"], "--output /dev/null/found.yaml"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_other_ranks_than_those_of_torchrun_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert main(["probe", "--ranks", "3"]) == 2
    assert "torchrun started 2" in capsys.readouterr().err
