"""What ``auto`` tries is over before anything is measured of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import jobs
from tests.support.ranks import RankPool
from tokenring_xdit.attention import auto
from tokenring_xdit.bench import CallShape, Strategy, SweepConfig, run_sweep
from tokenring_xdit.bench.measure import Bench
from tokenring_xdit.bench.workload import WorkloadShape
from tokenring_xdit.errors import UnsupportedError

UNKNOWN = {"heads", "direct:chunks=4", "bidirectional", "token_ring"}


@pytest.mark.parametrize("name", ["schedule:auto", "ulysses=2+schedule:auto"])
def test_attention_is_timed_with_what_auto_settled_on(ranks: RankPool, name: str, tmp_path: Path) -> None:
    shape = CallShape(4, 64, None, 4, 8, 1, "float32")
    answers = ranks.run(4, jobs.settled, shape, name, str(tmp_path), timeout=300)
    for (checked, timed, traced), _ in answers:
        assert checked == len(UNKNOWN) * 4
        assert timed == traced == 0
    assert answers[0][1] in UNKNOWN


def test_steps_are_timed_with_what_auto_settled_on(ranks: RankPool, tmp_path: Path) -> None:
    small = "random-flux:double=1,single=1,heads=4,head_dim=16,text_tokens=16"
    shape = WorkloadShape.of(2, small, "64x64", 1, "float32")
    answers = ranks.run(2, jobs.settled, shape, "schedule:auto", str(tmp_path), timeout=300)
    for (checked, timed, traced), _ in answers:
        assert checked == len(UNKNOWN) * 4
        assert timed == traced == 0
    assert answers[0][1] in UNKNOWN


@pytest.mark.parametrize(("name", "replayed"), [("schedule:auto", False), ("captured+schedule:auto", True)])
def test_auto_plans_for_how_it_is_measured(name: str, replayed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = object.__new__(Bench)
    monkeypatch.setattr(bench, "_call", lambda strategy: lambda: auto._replayed)
    assert bench._launched(Strategy.parse(name))() is replayed  # type: ignore[comparison-overlap]


def test_captured_calls_are_replayed_and_compared(ranks: RankPool) -> None:
    names = [
        "captured+schedule:token_ring",
        "captured+schedule:direct:wide=2",
        "captured+ulysses",
        "captured+xfuser-ring",
    ]
    for found in ranks.run(2, jobs.captured, CallShape(2, 64, None, 4, 8, 1, "float32"), names, timeout=300):
        for name, (checked, _) in found.items():
            assert checked.difference <= 1e-5 * checked.scale, name
            assert checked.bytes_sent > 0, name


def test_captured_strategies_need_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    axes = {"ranks": 2, "tokens": 64, "strategies": ["ulysses", "captured+ulysses"], "output": str(tmp_path)}
    with pytest.raises(UnsupportedError, match=r"strategy 'captured\+ulysses' needs a GPU with CUDA"):
        run_sweep(SweepConfig.model_validate(axes))
    assert not list(tmp_path.iterdir())
