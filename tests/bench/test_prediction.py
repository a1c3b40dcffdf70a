"""Simulations of recorded cases, where what has to come out is known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.report.samples import record
from tokenring_xdit.bench import Record, Status, predict
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.cli import main

PAYLOAD = 1448 / 1514
"""Of an Ethernet frame on the link, what TCP carries for a program."""


def slow(strategy: str, **more: Any) -> Record:
    """A case on links so slow that nothing else counts, which took 10 s; computing took next to nothing."""
    instant = Spread.of([1e-6])
    machine = {"cores": 2, "threads_per_rank": 1}
    return record([10.0], strategy, network="mesh:4:1mbit", compute_seconds=instant, machine=machine, **more)


@pytest.mark.parametrize(
    ("strategy", "blocks"),
    [
        ("xfuser-ring", 3 * 2),
        ("schedule:ring", 3 * 2),
        ("schedule:bidirectional", 3),
        ("schedule:direct_kv", 2),
        ("schedule:heads", 4 / 4),
    ],
)
def test_slow_links_take_what_the_busiest_has_to_carry(strategy: str, blocks: float) -> None:
    (found,) = predict([slow(strategy)])
    block = 1024 * 8 * 64 * 4  # bytes of one rank's queries
    assert found.simulation.makespan == pytest.approx(8 * blocks * block / (PAYLOAD * 1e6), rel=0.02)
    assert found.ratio == pytest.approx(found.simulation.makespan / 10.0)


def test_fewer_queries_are_sent_faster() -> None:
    every, few = predict([slow("schedule:direct"), slow("schedule:direct", queries=512)])
    assert few.simulation.makespan == pytest.approx(every.simulation.makespan / 8, rel=0.03)


def test_only_attention_calls_over_emulated_links_are_simulated() -> None:
    records = [
        record([1.0]),  # on the loopback
        slow("single"),
        slow("schedule:auto"),
        slow("schedule:ring", status=Status.FAILED).model_copy(update={"seconds": None}),
        slow("schedule:ring", level="pipeline", model="embedded", size="64x64", steps=1),
    ]
    assert predict(records) == ()


def test_the_command_prints_both_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(slow("schedule:ring").model_dump_json() + "\n")
    assert main(["bench", "predict", str(tmp_path), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["measured"], entry["ratio"]) == (10.0, entry["predicted"] / 10.0)
    assert main(["bench", "predict", str(results)]) == 0
    assert f"10000.0 {entry['predicted'] * 1e3:13.1f} {entry['ratio']:6.2f}" in capsys.readouterr().out
    results.write_text(record([1.0]).model_dump_json() + "\n")
    assert main(["bench", "predict", str(results)]) == 2
    assert "nothing to predict" in capsys.readouterr().err
