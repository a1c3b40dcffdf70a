"""How parts end that do not come to their end; nothing is started for that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenring_xdit.doctor import checkup as module
from tokenring_xdit.doctor import pools
from tokenring_xdit.doctor.cases import CheckupPart, CheckupPlan, Step
from tokenring_xdit.doctor.pools import WORLD, Ranks
from tokenring_xdit.doctor.record import Checkup, KernelTiming, PartState
from tokenring_xdit.errors import LaunchError


class Hurried(CheckupPlan):
    """A plan whose time is over before it begins."""

    seconds = -1.0  # type: ignore[assignment]


def done(plan: CheckupPlan, part: CheckupPart, folder: Path) -> Checkup:
    world = Ranks(WORLD, plan.ranks, on_gpus=False)
    return module._Running(plan, world, folder, "", lambda *step: None).part(part)


def test_a_part_without_time_is_not_begun(tmp_path: Path) -> None:
    (outcome,) = done(Hurried(4, 0), CheckupPart.EXACTNESS, tmp_path).parts
    assert (outcome.name, outcome.state) == ("exactness", PartState.CUT_SHORT)


def test_a_part_that_was_not_asked_for_is_not_begun(tmp_path: Path) -> None:
    plan = CheckupPlan(4, 0, skip=frozenset({CheckupPart.LINKS}))
    (outcome,) = done(plan, CheckupPart.LINKS, tmp_path).parts
    assert outcome.state is PartState.SKIPPED


def test_who_is_timed_alone_shares_its_gpu_with_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs in exclusive mode take one process only, and ranks that wait are processes."""
    events: list[str] = []

    class World:
        def __enter__(self) -> World:
            return self

        def __exit__(self, *error: object) -> None:
            events.append("over")

        def end(self) -> None:
            events.append("end")

    class Running:
        def __init__(self, *arguments: object) -> None:
            pass

        def survey(self) -> None:
            events.append("machine")

        def part(self, part: CheckupPart) -> None:
            events.append(part.value)

    monkeypatch.setattr(module, "Ranks", lambda *arguments, **options: World())
    monkeypatch.setattr(module, "_Running", Running)
    list(module.check_up(CheckupPlan(2, 2), tmp_path, "", lambda *step: None))
    assert events[:4] == ["machine", "exactness", "links", "launches"]
    assert events[4:] == ["end", "kernels", "end", "strategies", "end", "step", "over"]


def test_ranks_that_have_to_start_first_have_time_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk says nothing of a schedule."""
    waited: list[float] = []

    class Pool:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def ask(self, command: object, timeout: float) -> list[str]:
            waited.append(timeout)
            if command == "fail":
                raise LaunchError("rank 0 failed")
            return ["answer"]

        def close(self, *, kill: bool) -> None:
            pass

    monkeypatch.setattr(pools, "WorkerPool", Pool)
    with Ranks(WORLD, 2, on_gpus=False) as world:
        world.ask("one", 10.0)
        world.ask("another", 10.0)
        with pytest.raises(LaunchError):
            world.ask("fail", 10.0)
        world.ask("one of others", 10.0)
    assert waited == [130.0, 10.0, 10.0, 130.0]


@pytest.mark.parametrize(
    ("error", "said"),
    [(LaunchError("rank 1 died"), "rank 1 died"), (ZeroDivisionError("why"), "ZeroDivisionError: why")],
)
def test_a_part_that_fails_keeps_what_it_found(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = KernelTiming(kernel="cpu", problem="few tokens", dtype="float32", seconds=1.0, flops=1.0, error=0.0)

    def kernels(plan: CheckupPlan, step: Step) -> Iterator[KernelTiming]:
        yield first
        raise error

    monkeypatch.setattr(module, "time_kernels", kernels)
    found = done(CheckupPlan(4, 0), CheckupPart.KERNELS, tmp_path)
    assert [(part.state, part.said) for part in found.parts] == [(PartState.FAILED, said)]
    assert found.kernels == (first,)
    assert any(said in finding.said for finding in found.wrong)
