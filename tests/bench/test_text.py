"""Sweeps of level ``text``: what is refused, and what ranks find of each strategy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import jobs_text as jobs
from tests.bench.report.samples import record
from tests.support.ranks import RankPool
from tokenring_xdit.bench import Case, Record, Strategy, SweepConfig, predict, run_sweep
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.bench.text import TextShape

MODEL = "random-llama:layers=2,hidden=48,heads=6,kv_heads=2,head_dim=8,intermediate=64,vocabulary=97"

STRATEGIES = ["single", "gather-kv", "balanced", "pass-kv", "pass-q", "schedule:ring", "schedule:auto"]


def shape(ranks: int, tokens: int, queries: int | None = None, answer: int = 0) -> TextShape:
    return replace(TextShape.of(ranks, MODEL, tokens, queries, 1, "float32"), answer=answer)


@pytest.mark.parametrize(
    ("tokens", "queries"),
    [pytest.param(83, None, marks=pytest.mark.matrix), (120, 40), pytest.param(90, 1, marks=pytest.mark.matrix)],
)
def test_every_strategy_has_the_logits_of_one_process(ranks: RankPool, tokens: int, queries: int | None) -> None:
    for found in ranks.run(3, jobs.check, shape(3, tokens, queries, answer=5), STRATEGIES):
        assert [name for name, checked in found.items() if checked.difference > 1e-5 * max(checked.scale, 1)] == []
        assert all(checked.rows > 0 and checked.bytes_sent > 0 for name, checked in found.items() if name != "single")
        assert {checked.same_answer for name, checked in found.items() if name != "single"} <= {True, None}
        assert all(
            0 < (checked.keys or 0) <= tokens // 3 + 1 + 32 for name, checked in found.items() if name != "single"
        )


def test_a_prompt_in_chunks_has_the_same_logits_and_needs_less_memory(ranks: RankPool) -> None:
    whole = shape(3, 240, answer=4)
    in_chunks = replace(whole, chunk=25)  # of the last one every rank computes all 15 tokens
    for found, other in zip(
        ranks.run(3, jobs.check, in_chunks, ["single", "balanced"]),
        ranks.run(3, jobs.check, whole, ["balanced"]),
        strict=True,
    ):
        checked = found["balanced"]
        assert checked.difference <= 1e-5 * checked.scale
        assert 9 * 8 + 15 <= checked.rows <= 9 * 9 + 15
        assert checked.same_answer in {True, None}
        assert (checked.keys or 0) <= 240 // 3 + 1 + 32
        assert checked.peak < other["balanced"].peak
    assert str(in_chunks).startswith(f"{MODEL}, 240 tokens in chunks of 25")


def test_chunks_are_of_language_models() -> None:
    values = {"level": "attention", "strategies": "single", "tokens": 9, "ranks": 1, "chunk": 3}
    assert any(said.startswith("chunk: belongs to level text") for said in SweepConfig.mistakes_between(values))
    assert SweepConfig.mistakes_between({**values, "level": "text"}) == []


def test_a_rank_that_forgets_a_key_shows(ranks: RankPool) -> None:
    for checked in ranks.run(3, jobs.check_with_a_fault, shape(3, 83), "pass-kv"):
        assert checked.difference > 1e-3 * checked.scale or checked.rows == 28  # rank 0 needs nobody's keys


@pytest.mark.parametrize(
    ("strategy", "asked", "message"),
    [
        ("ulysses", shape(2, 64), "has no language models"),
        ("ulysses=2+schedule:ring", shape(4, 64), "has no language models"),
        ("pass-kv", shape(1, 64), "needs more than one rank"),
        ("pass-kv", shape(2, 64, 65), "65 queries are more than the 64 tokens"),
        ("schedule:auto:measure=true", shape(2, 64), "use schedule:auto"),
        ("schedule:near_far", shape(2, 64), None),
        ("balanced", shape(7, 3), None),
    ],
)
def test_what_goes_together(strategy: str, asked: TextShape, message: str | None) -> None:
    refusal = Case(asked, Strategy.parse(strategy)).refusal()
    assert refusal is None if message is None else message in (refusal or "")


@pytest.mark.parametrize("level", ["attention", "pipeline"])
def test_other_levels_refuse_strategies_of_language_models(level: str) -> None:
    said = {"tokens": 64} if level == "attention" else {"models": "embedded", "sizes": 64}
    config = SweepConfig.model_validate({"level": level, "strategies": "pass-q", "ranks": 2, "output": "here", **said})
    (cases,) = config.comparisons().values()
    assert "is for language models" in (cases[0].refusal() or "")


@pytest.mark.e2e
def test_a_sweep_leaves_records(tmp_path: Path) -> None:
    config = SweepConfig.model_validate(
        {
            "level": "text",
            "strategies": ["single", "pass-kv", "pass-q"],
            "models": MODEL,
            "tokens": 96,
            "queries": [96, 32],
            "answer": 4,
            "ranks": 2,
            "rounds": 2,
            "output": str(tmp_path),
        }
    )
    outcome = run_sweep(config)
    assert [(r.strategy, r.queries, r.error) for r in outcome.records if r.error is not None] == []
    prompts = {r.strategy: r for r in outcome.records if r.queries is None}
    assert prompts["pass-q"].same_answer
    assert prompts["pass-q"].keys_held is not None
    assert max(prompts["pass-q"].keys_held) <= 50 + 32
    assert all(r.max_error is not None and r.max_error <= 1e-5 for r in outcome.records)


def slow(strategy: str, queries: int | None) -> Record:
    """A case on links so slow that nothing else counts."""
    machine = {"cores": 2, "threads_per_rank": 1}
    model = "random-llama:heads=8,kv_heads=2,head_dim=64"
    return record(
        [10.0],
        strategy,
        level="text",
        network="mesh:4:1mbit",
        tokens=8192,
        queries=queries,
        compute_seconds=Spread.of([1e-6]),
        machine=machine,
        model=model,
    ).model_copy(update={"kv_heads": 2, "heads": 8, "head_dim": 64})


def test_predictions_are_what_slow_links_take() -> None:
    rate = 1e6 / 8 * 1448 / 1514
    keys, queries = predict([slow("pass-kv", 1024), slow("pass-q", 1024)])
    assert keys.simulation.makespan == pytest.approx(2048 * 2 * 2 * 64 * 4 / rate, rel=0.05)
    assert queries.simulation.makespan == pytest.approx(256 * (2 * 8 * 64 * 4 + 32) / rate, rel=0.05)
    assert predict([slow("schedule:auto", None), slow("balanced", 1024)]) == ()
    assert len(predict([slow("balanced", None), slow("schedule:ring", None), slow("balanced", 1)])) == 3
    assert json.loads(keys.record.model_dump_json())["kv_heads"] == 2
    (balanced,) = predict([slow("balanced", None)])  # four links a rank carry nearly alike: no order takes much less
    assert 0.5 * balanced.ratio < balanced.of_bound <= balanced.ratio
