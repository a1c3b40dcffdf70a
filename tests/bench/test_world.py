"""Sweeps whose ranks torchrun starts: two nodes of it, on this machine's loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import commands
from tokenring_xdit.bench import RESULTS_FILE, Record, Status, read_records
from tokenring_xdit.cli import main

BASE: dict[str, Any] = {
    "strategies": ["xfuser-ring", "schedule:token_ring", "single"],
    "ranks": 2,
    "tokens": [31, 64],
    "heads": 4,
    "head_dim": 8,
    "rounds": 3,
}


def write(folder: Path, **values: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(json.dumps({**BASE, "output": str(folder / "out"), **values}))
    return path


def start_node(node: int, port: int, *arguments: str) -> subprocess.Popen[str]:
    """One of two nodes of torchrun, with a rank each."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1"),
            *("--master-addr=127.0.0.1", f"--master-port={port}"),
            *("-m", "tokenring_xdit.cli", "bench", "run", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )


def ended(nodes: list[subprocess.Popen[str]], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Exit code, output and messages of each node."""
    try:
        found = [node.communicate(timeout=timeout) for node in nodes]
    finally:
        for node in nodes:
            for child in psutil.Process(node.pid).children(recursive=True) if node.poll() is None else ():
                child.kill()
            node.kill()
    return [(node.returncode, *texts) for node, texts in zip(nodes, found, strict=True)]


def figures(record: Record) -> tuple[Any, ...]:
    return (record.strategy, record.tokens, record.status)


def test_other_numbers_of_ranks_are_refused_before_ranks_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    for name in ("LOG_LEVEL", "KINETO_LOG_LEVEL", "PYTHONWARNINGS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what the command leaves, undone
    assert main(["bench", str(write(tmp_path, ranks=[2, 3]))]) == 2
    assert "torchrun started 3 ranks, and the sweep asks for [2] ranks" in capsys.readouterr().err
    assert main(["bench", str(write(tmp_path, ranks=3, network="mesh:3:100mbit"))]) == 2
    assert "asks for the emulated network 'mesh:3:100mbit'" in capsys.readouterr().err


@pytest.mark.matrix
def test_a_sweep_over_two_nodes(tmp_path: Path) -> None:
    config, port = write(tmp_path), commands.free_port()
    first, second = ended([start_node(node, port, str(config)) for node in (0, 1)])
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "results:" in first[1]
    assert second[1] == ""
    records = read_records(tmp_path / "out" / RESULTS_FILE)
    assert [figures(record) for record in records] == [
        ("xfuser-ring", 31, Status.REFUSED),
        ("schedule:token_ring", 31, Status.OK),
        ("single", 31, Status.OK),
        ("xfuser-ring", 64, Status.OK),
        ("schedule:token_ring", 64, Status.OK),
        ("single", 64, Status.OK),
    ]
    for record in records:
        if record.status is Status.OK:
            assert record.max_error is not None and record.max_error <= 1e-5
            assert record.seconds is not None and len(record.seconds.rounds) == 3
            assert record.peak_bytes is not None and record.peak_bytes[0] > 0


@pytest.mark.matrix
def test_a_call_that_takes_too_long_ends_it_and_resume_goes_on(tmp_path: Path) -> None:
    config, port = write(tmp_path, strategies="schedule:ring", tokens=64, timeout=0.001), commands.free_port()
    first, _ = ended([start_node(node, port, str(config)) for node in (0, 1)])
    assert first[0] != 0
    (record,) = read_records(tmp_path / "out" / RESULTS_FILE)
    assert (record.status, record.error) == (Status.FAILED, "ranks [0, 1] did not answer within 0.001 seconds")


@pytest.mark.matrix
def test_a_rank_that_is_killed_ends_it_and_resume_goes_on(tmp_path: Path) -> None:
    strategies = ["schedule:ring", "schedule:token_ring", "schedule:direct"]
    config, port = write(tmp_path, strategies=strategies, tokens=4096, rounds=40, timeout=30), commands.free_port()
    nodes = [start_node(node, port, str(config)) for node in (0, 1)]
    assert nodes[0].stderr is not None
    said = ""
    while "turn 3 of" not in said:  # its progress
        more = nodes[0].stderr.read(64)
        assert more, said
        said += more
    (rank,) = psutil.Process(nodes[1].pid).children()
    rank.kill()
    first, second = ended(nodes)
    assert first[0] != 0 and second[0] != 0
    results = tmp_path / "out" / RESULTS_FILE
    failed = read_records(results)  # one, or all if it was between the cases
    assert failed and all(record.status is Status.FAILED and "rank" in (record.error or "") for record in failed)
    port = commands.free_port()
    first, _ = ended([start_node(node, port, str(config), "--resume") for node in (0, 1)])
    assert first[0] == 1, first[2]  # as there is a case that failed
    records = read_records(results)
    assert sorted(record.strategy for record in records) == sorted(strategies)
    assert all(record in failed or record.status is Status.OK for record in records)
