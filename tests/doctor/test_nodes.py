"""A checkup of several nodes, under torchrun: two groups of processes stand for nodes here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.checkups import checkup
from tests.doctor.test_doctor import FAULT, read, wrong
from tests.support import commands
from tokenring_xdit.doctor.facts import nodes_of
from tokenring_xdit.doctor.findings import findings
from tokenring_xdit.doctor.pools import TorchrunRanks
from tokenring_xdit.doctor.record import Grade, PartState
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.probe.commands import Describe, Description
from tokenring_xdit.workers.wire import Wire


def torchrun(*arguments: str, ranks: int = 1, environment: dict[str, str] | None = None) -> list[tuple[int, str]]:
    """The command as both nodes start it; the exit code and what each of them printed."""
    place = ["--master-addr", "127.0.0.1", "--master-port", str(commands.free_port())]
    nodes = []
    for node in range(2):
        words = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", str(ranks), *place]
        nodes.append(
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *words, "-m", "tokenring_xdit.cli", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            )
        )
    try:
        outputs = [process.communicate(timeout=300)[0] for process in nodes]
    finally:
        for process in nodes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(nodes, outputs, strict=True)]


@pytest.mark.e2e
@pytest.mark.matrix
def test_two_nodes_make_one_report_that_names_them(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    (code, output), (other, _) = torchrun("doctor", "--quick", "--skip", "exactness", "--out", str(folder))
    found = read(folder)
    assert (code, other) == (0, 0), wrong(found) + output
    assert [(node.node, node.ranks, node.device) for node in found.nodes] == [(0, (0,), "cpu"), (1, (1,), "cpu")]
    states = {part.name: part.state for part in found.parts}
    assert set(states.values()) <= {PartState.DONE, PartState.CUT_SHORT, PartState.SKIPPED}, found.parts
    assert {launch.schedule for launch in found.launches if launch.seconds} >= {"ring", "token_ring"}
    assert {record.ranks for record in found.strategies} == {2}
    assert f"2 nodes: node 0 ({found.nodes[0].host}, rank 0, cpu); node 1" in output
    assert "<h2>Nodes</h2>" in (folder / "doctor.html").read_text()


@pytest.mark.matrix
def test_a_rank_of_another_node_that_dies_is_named_and_what_needs_it_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    fault = FAULT.replace("{fault}", "if verified.schedule.name == 'direct': os._exit(3)")
    paths = os.pathsep.join([commands.fault(tmp_path, fault)["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
    torchrun("doctor", "--quick", "--skip", "times", "--out", str(folder), environment={"PYTHONPATH": paths})
    found = read(folder)
    states = {part.name: part.state for part in found.parts}
    assert states["exactness"] is PartState.FAILED
    assert states["links"] is PartState.IMPOSSIBLE
    assert "rank 1" in wrong(found)


class LosingPool:
    """Ranks of which one is lost with the second command."""

    ranks, workers = 2, (0, 1)

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, command: Any, *rest: Any) -> list[str]:
        """As all pools."""
        self.asked += 1
        if self.asked > 1:
            raise LaunchError("rank 1 died\nand said much")
        return ["here", "there"]


def test_lost_ranks_are_asked_for_nothing_more() -> None:
    pool = LosingPool()
    ranks = TorchrunRanks(pool)  # type: ignore[arg-type]
    assert ranks.ask(Describe(), 1.0) == ["here", "there"]
    assert ranks.lost is None
    with pytest.raises(LaunchError, match="rank 1 died"):
        ranks.ask(Describe(), 1.0)
    assert ranks.lost == "rank 1 died"
    ranks.end()
    with pytest.raises(LaunchError, match="not tried, as the ranks that torchrun started are lost: rank 1 died"):
        ranks.pool.ask(Describe())
    assert pool.asked == 2


def test_nodes_that_differ_are_noted() -> None:
    ranks = [
        Description("a", 0, "H100", "gloo", "2.13"),
        Description("b", 1, "H200", "gloo", "2.12"),
        Description("a", 0, "H100", "gloo", "2.13"),
    ]
    nodes = nodes_of(ranks)
    assert [str(node) for node in nodes] == ["node 0 (a, ranks 0, 2, H100)", "node 1 (b, rank 1, H200)"]
    found = [f.said for f in findings(checkup(nodes=nodes)) if f.grade is Grade.NOTE]
    assert "The nodes differ in torch: 2.12, 2.13; the slowest decides what a call takes." in found
    assert "The nodes differ in GPUs: H100, H200; the slowest decides what a call takes." in found


def test_answers_travel_as_plain_data() -> None:
    wire = Wire("tokenring_xdit.doctor.node_rank")
    for message in (Describe(), Description("a", 1, "cpu", "gloo", "2.13"), 0.1, float("inf"), "refused", None):
        assert wire.unpack(wire.pack(message)) == message
