from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts.hosts import Host
from tests.scripts.ring_attention import HEADS, TOKENS, WIDTH
from tests.scripts.support import INTERPRETER, RING_ATTENTION, ROOT, SCRIPTS, TOPOLOGIES, environment, path_with, run
from tests.scripts.test_launch_node import lines
from tests.support.commands import free_port

SCRIPT = "launch-nodes.sh"
NODES = ("--nodes", "2", "--node-rank", "1")
DGX_1 = f"--nvidia-smi={TOPOLOGIES / 'dgx-1.txt'}"


def finish(processes: list[subprocess.Popen[str]], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Wait for the launchers of all nodes; leave none behind."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.terminate()  # torchrun ends its ranks before itself
        for process in processes:
            process.wait(60)
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.e2e
def test_the_command_of_a_node(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("model: embedded\nprompt: [a red circle]\ntokenring_degree: 16\n")
    planned = run(SCRIPT, *NODES, "--dry-run", DGX_1, "--master", "127.0.0.1:1234", config, "seed=1")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == (
        "env CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,3,2,1,5,6,7,4 NCCL_DEBUG=WARN "
        f"{INTERPRETER} -m torch.distributed.run --nnodes 2 --node-rank 1 --rdzv-backend static "
        "--master-addr 127.0.0.1 --master-port 1234 --local-addr 127.0.0.1 --nproc-per-node 8 "
        f"--no-python {INTERPRETER} -m tokenring_xdit.cli run {config} seed=1\n"
    )
    assert "127.0.0.1 is a loopback address on this node" in planned.stderr


@pytest.mark.e2e
def test_ranks_that_nodes_cannot_share_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("model: embedded\nprompt: [a red circle]\ntokenring_degree: 3\n")
    refused = run(SCRIPT, *NODES, "--dry-run", "--cpu", "--master=127.0.0.1", config)
    assert refused.returncode == 2
    assert "asks for 3 ranks, tokenring_degree 3 times ulysses_degree 1; on 2 node(s)" in refused.stderr


def test_a_step_of_slurm_knows_its_node() -> None:
    planned = run(SCRIPT, "--nodes=3", "--master=127.0.0.1", "--dry-run", DGX_1, "--", "x.py", SLURM_NODEID="2")
    assert "--nnodes 3 --node-rank 2 " in planned.stdout
    assert "--master-port 29500 " in planned.stdout


def test_the_interface_can_be_named() -> None:
    planned = run(SCRIPT, *NODES, "--dry-run", DGX_1, "--master=127.0.0.1", "--interface=ib0", "--", "x.py")
    assert "NCCL_SOCKET_IFNAME==ib0 GLOO_SOCKET_IFNAME=ib0 " in planned.stdout
    planned = run(
        SCRIPT,
        *(*NODES, "--dry-run", DGX_1, "--master=127.0.0.1", "--interface=ib0", "--", "x.py"),
        NCCL_SOCKET_IFNAME="^docker",
    )
    assert "NCCL_SOCKET_IFNAME=\\^docker GLOO_SOCKET_IFNAME=ib0 " in planned.stdout


def test_without_ip_the_interface_is_left_open(tmp_path: Path) -> None:
    path = path_with(tmp_path)
    (tmp_path / "ip").unlink()
    planned = run(SCRIPT, *NODES, "--dry-run", DGX_1, "--master=localhost", "--", "x.py", PATH=path)
    assert planned.returncode == 0, planned.stderr
    assert "SOCKET_IFNAME" not in planned.stdout
    assert "name it with --interface" in planned.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--node-rank=0", "--master=localhost"], "--nodes says how many nodes there are; it is ''"),
        (["--nodes=0", "--node-rank=0", "--master=localhost"], "it is '0'"),
        (
            ["--nodes=2", "--master=localhost"],
            "--node-rank says which of the 2 nodes this one is, from 0 to 1; it is ''",
        ),
        (["--nodes=2", "--node-rank=2", "--master=localhost"], "it is '2'"),
        (["--nodes=2", "--node-rank=0"], "--master names the node of rank 0"),
        (["--nodes=2", "--node-rank=0", "--master=:29500"], "it is ':29500'"),
        (["--nodes=2", "--node-rank=0", "--master=localhost:http"], "it is 'localhost:http'"),
        (["--nodes=2", "--node-rank=0", "--master=localhost:65536"], "it is 'localhost:65536'"),
        (["--nodes=2", "--node-rank=0", "--master=fe80::1"], "by name or IPv4 address; it is 'fe80::1'"),
        (["--nodes=2", "--node-rank=0", "--master=no.such.host.invalid"], "'no.such.host.invalid' does not resolve"),
        (["--node=2"], "unknown option --node"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], message: str) -> None:
    refused = run(SCRIPT, "--cpu", "--ranks=2", *arguments, "--", "x.py")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not refused.stdout


@pytest.mark.matrix
def test_two_launchers_meet_on_this_machine() -> None:
    """As those of a SLURM job do, in test_slurm.py."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [
                *("bash", SCRIPTS / SCRIPT, "--nodes=2", f"--node-rank={node}", f"--master=127.0.0.1:{port}"),
                *("--cpu", "--ranks=1", "--", RING_ATTENTION),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for node in (1, 0)
    ]
    second, first = finish(processes)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert [(line["rank"], line["ranks"]) for line in lines(first[1]) + lines(second[1])] == [(0, 2), (1, 2)]


@pytest.mark.netns
def test_two_hosts_compute_attention(hosts: tuple[Host, Host]) -> None:
    """Four ranks on two hosts, that meet through torchrun: nothing is known to either but the master's address."""
    master = f"--master={hosts[0].address}"
    processes = [
        host.start(SCRIPT, "--nodes=2", f"--node-rank={node}", master, "--cpu", "--ranks=2", "--", RING_ATTENTION)
        for node, host in enumerate(hosts)
    ]
    ended = finish(processes)
    assert [code for code, _, _ in ended] == [0, 0], "".join(err for _, _, err in ended)
    on_host = [lines(out) for _, out, _ in ended]
    assert [[line["rank"] for line in found] for found in on_host] == [[0, 1], [2, 3]]
    assert all(line["ranks"] == 4 for found in on_host for line in found)
    networks = [{line["network"] for line in found} for found in on_host]
    assert [len(network) for network in networks] == [1, 1] and networks[0] != networks[1]
    for found in on_host:  # the device that holds the address, neither the one packets leave by nor the loopback
        for line in found:
            assert line["variables"]["GLOO_SOCKET_IFNAME"] == "host"
            assert line["variables"]["NCCL_SOCKET_IFNAME"] == "=host"
    # Each host sends the other a block of queries in each of three steps, and brings four partial outputs home.
    block = 4 * TOKENS * HEADS * WIDTH
    assert all(host.sent() > 7 * block for host in hosts)


@pytest.mark.netns
def test_two_hosts_draw_the_picture_of_one(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """``run CONFIG``: rank 0 writes."""
    wishes = (ROOT / "configs" / "embedded.yaml", "tokenring_degree=2", "steps=2")
    alone = run("launch-node.sh", "--cpu", *wishes, f"output={tmp_path / 'alone.png'}")
    assert alone.returncode == 0, alone.stderr
    processes = []
    for node, host in enumerate(hosts):
        (folder := tmp_path / f"host{node}").mkdir()
        where = ("--nodes=2", f"--node-rank={node}", f"--master={hosts[0].address}", "--cpu")
        processes.append(host.start(SCRIPT, *where, *wishes, "output=picture.png", folder=folder))
    ended = finish(processes, timeout=300)
    assert [code for code, _, _ in ended] == [0, 0], "".join(err for _, _, err in ended)
    one, two = (np.asarray(Image.open(tmp_path / name), dtype=int) for name in ("alone.png", "host0/picture.png"))
    assert one.std() > 0 and np.abs(one - two).max() <= 1
    assert not (tmp_path / "host1" / "picture.png").exists()


@pytest.mark.netns
def test_a_host_that_fails_ends_the_others(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "dist.barrier()\n"
        "if os.environ['RANK'] == '1': sys.exit(3)\n"
        "dist.barrier()\n"
    )
    master = f"--master={hosts[0].address}:4321"
    processes = [
        host.start(SCRIPT, "--nodes=2", f"--node-rank={node}", master, "--cpu", "--ranks=1", "--", program)
        for node, host in enumerate(hosts)
    ]
    ended = finish(processes)
    assert all(code not in (0, 2) for code, _, _ in ended)
    assert re.search(r"exitcode\s*: 3", ended[1][2])


@pytest.mark.netns
def test_a_host_without_a_way_to_the_master_is_refused(hosts: tuple[Host, Host]) -> None:
    process = hosts[1].start(
        SCRIPT, "--nodes=2", "--node-rank=1", "--master=10.11.12.13", "--cpu", "--ranks=1", "--", "x.py"
    )
    ((code, _, err),) = finish([process])
    assert code == 2
    assert "this node has no route to the master, 10.11.12.13" in err
