"""Hybrids of attention, and denoising steps of real Flux pipelines, on real ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import jobs
from tests.support.ranks import RankPool
from tokenring_xdit.bench import (
    TIMELINES_FILE,
    CallShape,
    Record,
    Status,
    Strategy,
    SweepConfig,
    SweepStep,
    Verdict,
    compare,
    read_records,
    run_sweep,
)
from tokenring_xdit.bench.timelines import Traced, read_timelines
from tokenring_xdit.bench.workload import WorkloadShape
from tokenring_xdit.schedule import Activity

pytestmark = pytest.mark.e2e

SMALL = "random-flux:double=1,single=1,heads=4,head_dim=16,text_tokens=16"

HYBRIDS = [
    "ulysses=2+xfuser-ring",
    "ulysses=2+xfuser-ring-alltoall",
    "ulysses=2+schedule:ring",
    "ulysses=2+schedule:direct:chunks=2",
]

OWN = ["diffusers-ulysses", "diffusers-ring"]
"""Diffusers' own context parallel."""

EVERY = ["single", "ulysses", "xfuser-ring", "xfuser-ring-alltoall", "schedule:token_ring", *OWN, *HYBRIDS]


def test_hybrids_are_exact_and_send_what_their_parts_send(ranks: RankPool) -> None:
    shape = CallShape(4, 96, None, 4, 8, 2, "float32")
    block = 2 * 4 * 24 * 8 * 4  # bytes of one rank's queries
    exchanged = 4 * block // 2  # queries, keys, values and outputs, half of each stays
    around = 2 * block  # keys and values of twice the tokens in half the heads, to the other rank of the ring
    log_sum_exp = 2 * 2 * 48 * 4
    expected = [around, around, around, around + log_sum_exp]  # direct: queries there, outputs back
    for found in ranks.run(4, jobs.check, shape, HYBRIDS, timeout=300):
        for name, more in zip(HYBRIDS, expected, strict=True):
            assert found[name].difference <= 1e-5 * found[name].scale
            assert found[name].bytes_sent == exchanged + more
            assert found[name].peak > 0


def test_steps_of_every_strategy_agree_with_the_unmodified_pipeline(ranks: RankPool) -> None:
    shape = WorkloadShape.of(4, SMALL, "64x128", 2, "float32")
    answers = ranks.run(4, jobs.measure, shape, EVERY, timeout=300)
    for name in EVERY:
        found = [answer[name][0] for answer in answers]
        holder = 0 if name == "single" else 3  # xfuser gives latents to the last rank; diffusers to all
        assert [checked.rows for checked in found] == [32 if rank == holder else 0 for rank in range(4)]
        assert found[holder].scale > 0
        assert found[holder].difference <= 1e-5 * found[holder].scale
        for timed in (answer[name][1] for answer in answers[: 1 if name == "single" else 4]):
            assert timed.attention is not None and 0 < timed.attention < timed.seconds
    assert [answer["single"][1].seconds for answer in answers[1:]] == [0.0] * 3
    rank = {name: checked.bytes_sent for name, (checked, _) in answers[1].items()}
    assert rank["diffusers-ulysses"] == rank["ulysses"] > 0
    assert rank["diffusers-ring"] == rank["xfuser-ring"] > 0


def test_captured_steps_agree_with_the_unmodified_pipeline(ranks: RankPool) -> None:
    names = ["captured+ulysses", "captured+xfuser-ring", "captured+schedule:token_ring"]
    answers = ranks.run(2, jobs.captured, WorkloadShape.of(2, SMALL, "64x64", 1, "float32"), names, timeout=300)
    for name in names:
        checked, timed = answers[1][name]
        assert checked.scale > 0
        assert checked.difference <= 1e-5 * checked.scale
        assert checked.rows == 16
        assert timed.seconds > 0
        assert timed.attention is None


def test_what_diffusers_own_cannot_do_is_refused() -> None:
    """15 image tokens, 3 heads: refused before anything is started, with what else there is."""
    uneven = WorkloadShape.of(2, SMALL, "80x48", 1, "float32")
    for name in OWN:
        assert "diffusers cuts 15 image tokens evenly, which 2 ranks do not" in str(
            uneven.refusal(Strategy.parse(name))
        )
    odd = WorkloadShape.of(2, SMALL.replace("heads=4", "heads=3"), "64x64", 1, "float32")
    assert "shards 3 heads, which 2 ranks do not divide" in str(odd.refusal(Strategy.parse(OWN[0])))
    assert odd.refusal(Strategy.parse(OWN[1])) is None
    text = WorkloadShape.of(2, SMALL.replace("text_tokens=16", "text_tokens=15"), "64x64", 1, "float32")
    assert "15 text tokens" in str(text.refusal(Strategy.parse(OWN[1])))
    refused = text.refusal(Strategy.parse(f"captured+{OWN[1]}"))
    assert refused == f"captured+{OWN[1]}: steps of diffusers' own context parallel are not captured: use '{OWN[1]}'"
    for name in OWN:
        call = CallShape(2, 96, None, 4, 8, 1, "float32").refusal(Strategy.parse(name))
        assert call == f"{name} spreads whole models: use it with level pipeline, or ulysses and xfuser-ring"


def test_steps_send_what_their_attention_calls_send(ranks: RankPool) -> None:
    """Two calls a step: a block of two streams, and one of one."""
    names = ["single", "ulysses", "xfuser-ring", "xfuser-ring-alltoall", "schedule:ring"]
    scene = WorkloadShape.of(2, SMALL, "64x64", 3, "float32")
    attention = CallShape(2, scene.tokens, None, scene.heads, scene.head_dim, 1, "float32")
    steps = ranks.run(2, jobs.check, scene, names, timeout=300)
    calls = ranks.run(2, jobs.check, attention, names, timeout=300)
    for name in names:
        assert [of[name].bytes_sent for of in steps] == [3 * 2 * of[name].bytes_sent for of in calls]
        assert name == "single" or steps[0][name].bytes_sent > 0


def sent(traced: Traced, rank: int) -> int:
    return sum(s.size for s in traced.timeline.spans if (s.rank, s.activity) == (rank, Activity.SEND))


def test_traces_of_hybrids_send_what_the_calls_send(ranks: RankPool) -> None:
    answers = ranks.run(4, jobs.trace, CallShape(4, 96, None, 4, 8, 2, "float32"), HYBRIDS, timeout=300)
    for name in HYBRIDS:
        traced = answers[0][name][1]
        assert traced is not None and traced.timeline.name == name
        assert [answer[name][1] for answer in answers[1:]] == [None] * 3
        for rank, answer in enumerate(answers):
            assert sent(traced, rank) == answer[name][0].bytes_sent


def test_the_trace_of_a_pipeline_is_of_its_last_step(ranks: RankPool) -> None:
    """Two attention calls a step, of three steps."""
    names = ["single", "ulysses", "xfuser-ring", "schedule:direct"]
    answers = ranks.run(2, jobs.trace, WorkloadShape.of(2, SMALL, "64x64", 3, "float32"), names, timeout=300)
    # Ulysses attends all at once; along a ring each call meets the own keys and those of the other rank.
    attends = {"single": 0, "ulysses": 2, "xfuser-ring": 2 * 2, "schedule:direct": 2 * 2}
    for name in names:
        traced = answers[0][name][1]
        assert traced is not None
        for rank, answer in enumerate(answers):
            assert 3 * sent(traced, rank) == answer[name][0].bytes_sent
            own = [s for s in traced.timeline.spans if (s.rank, s.activity) == (rank, Activity.ATTEND)]
            assert len(own) == attends[name]


def test_a_picture_that_does_not_divide_is_exact_with_token_ring(ranks: RankPool) -> None:
    """15 image tokens and 16 of text on two ranks: xfuser pads, and its ring is refused."""
    shape = WorkloadShape.of(2, SMALL, "80x48", 1, "float32")
    assert shape.refusal(Strategy.parse("xfuser-ring")) is not None
    for found in ranks.run(2, jobs.check, shape, ["schedule:token_ring"], timeout=300):
        assert found["schedule:token_ring"].difference <= 1e-5 * found["schedule:token_ring"].scale


def test_the_model_that_comes_along(ranks: RankPool) -> None:
    shape = WorkloadShape.of(2, "embedded", "64x32", 2, "float32")
    last = ranks.run(2, jobs.check, shape, ["schedule:direct", "ulysses"], timeout=300)[-1]
    for found in last.values():
        assert found.rows == 32
        assert found.difference <= 1e-5 * found.scale


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepConfig, tuple[Record, ...], list[SweepStep]]:
    """A sweep of two sizes in ranks of its own."""
    steps: list[SweepStep] = []
    values = {
        "level": "pipeline",
        "strategies": ["single", "xfuser-ring", "schedule:token_ring"],
        "models": SMALL,
        "sizes": [64, "64x80"],
        "steps": 1,
        "ranks": 2,
        "rounds": 3,
        "output": str(tmp_path_factory.mktemp("steps")),
    }
    config = SweepConfig.model_validate(values)
    return config, run_sweep(config, on_step=steps.append).records, steps


def test_a_sweep_of_steps_has_its_figures(swept: tuple[SweepConfig, tuple[Record, ...], list[SweepStep]]) -> None:
    _, records, steps = swept
    assert [(r.size, r.strategy, r.status) for r in records] == [
        ("64x64", "single", Status.OK),
        ("64x64", "xfuser-ring", Status.OK),
        ("64x64", "schedule:token_ring", Status.OK),
        ("64x80", "xfuser-ring", Status.REFUSED),  # five rows of tokens
        ("64x80", "single", Status.OK),
        ("64x80", "schedule:token_ring", Status.OK),
    ]
    for record in records:
        assert (record.level, record.model, record.steps) == ("pipeline", SMALL, 1)
        if record.status is Status.REFUSED:
            assert "cannot share 5 rows" in (record.error or "")
            continue
        assert record.tokens == 16 + (16 if record.size == "64x64" else 20)
        assert record.max_error is not None and record.max_error <= 1e-5
        assert record.checked_rows == record.tokens - 16
        assert record.seconds is not None and len(record.seconds.rounds) == 3
        assert record.attention_seconds is not None and len(record.attention_seconds.rounds) == 3
        pairs = zip(record.attention_seconds.rounds, record.seconds.rounds, strict=True)
        assert all(0 < inside < step for inside, step in pairs)
        assert record.compute_seconds is None and record.exposed_seconds is None
        assert record.machine["kernel"] == "SDPA_FLASH"
    timelines = read_timelines(Path(swept[0].output) / TIMELINES_FILE)
    assert [(entry.level, entry.model, entry.size, entry.steps, entry.strategy) for entry in timelines] == [
        (record.level, record.model, record.size, record.steps, record.strategy)
        for record in records
        if record.status is Status.OK
    ]
    turns = [step.what.partition(": ")[2] for step in steps if step.what.startswith("turn ")]
    assert set(turns) == {"single", "xfuser-ring", "schedule:token_ring"}
    assert all(step.done < step.total for step in steps)


def test_steps_are_told_apart_from_each_other_and_from_attention(
    swept: tuple[SweepConfig, tuple[Record, ...], list[SweepStep]],
) -> None:
    config, records, _ = swept
    assert len({record.key for record in records}) == len(records)
    assert run_sweep(config, resume=True).records == records  # nothing is left to do
    assert {entry.verdict for entry in compare(records, records)} == {Verdict.SAME, Verdict.NOT_RUN}
    ran = [record for record in records if record.status is Status.OK]
    as_attention = [
        r.model_copy(update={"level": "attention", "model": None, "size": None, "steps": None}) for r in ran
    ]
    assert {e.verdict for e in compare(ran, as_attention)} == {Verdict.ONLY_BEFORE, Verdict.ONLY_AFTER}


def test_records_of_before_there_were_levels_are_read(tmp_path: Path) -> None:
    """As version 0.1 wrote them."""
    line = (
        '{"version":1,"strategy":"ulysses","ranks":2,"tokens":64,"heads":4,"head_dim":8,"batch":1,"dtype":"float32",'
        '"network":"none","rounds":1,"seed":0,"status":"ok","error":null,"seconds":{"median":0.1,"lower":0.1,'
        '"upper":0.1,"rounds":[0.1]},"compute_seconds":null,"exposed_seconds":null,"max_error":1e-7,"checked_rows":64,'
        '"bytes_sent":[1,1],"link_bytes":null,"peak_bytes":[1,1],"peak_measure":"x","beside":["ulysses"],'
        '"network_share":null,"load_at_start":0.1,"machine":{},"finished":"2026-11-25T00:00:00+00:00"}\n'
    )
    path = tmp_path / "results.jsonl"
    path.write_text(line)
    (record,) = read_records(path)
    assert (record.level, record.model, record.size) == ("attention", None, None)
    planned = SweepConfig.model_validate(
        {"strategies": "ulysses", "ranks": 2, "tokens": 64, "heads": 4, "head_dim": 8, "output": str(tmp_path)}
    )
    assert run_sweep(planned, resume=True).records == (record,)  # it is that case, which has run
