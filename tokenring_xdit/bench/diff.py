"""Two runs of a sweep, case by case: what became slower by more than their own spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokenring_xdit.bench.records import Record, Status

__all__ = ["FIGURES", "Difference", "Verdict", "compare"]

FIGURES = {
    "seconds": "median",
    "p95_seconds": "p95",
    "first_step_seconds": "time to first step",
    "per_request_seconds": "throughput",
}
"""Fields of records that are compared, and what they are called; the more, the worse."""


class Verdict(Enum):
    """What became of a case."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "within noise"
    BROKEN = "broken"
    FIXED = "fixed"
    NOT_RUN = "ran in neither"
    ONLY_BEFORE = "only before"
    ONLY_AFTER = "only after"

    @property
    def worse(self) -> bool:
        """Whether somebody has to look at it."""
        return self in {self.SLOWER, self.BROKEN}


@dataclass(frozen=True)
class Difference:
    """A case in two runs.

    Attributes:
        before: Its record in the first, or ``None``.
        after: Its record in the second, or ``None``.
        verdict: What became of it.
        figures: Which of its figures that is, as :data:`FIGURES` names them.
    """

    before: Record | None
    after: Record | None
    verdict: Verdict
    figures: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Median after over median before, where it ran in both."""
        if self.before is None or self.after is None or not self.before.seconds or not self.after.seconds:
            return None
        return self.after.seconds.median / self.before.seconds.median


def compare(before: Sequence[Record], after: Sequence[Record], *, tolerance: float = 0.05) -> tuple[Difference, ...]:
    """Compare two runs.

    A case is slower where its median, or of a service any of :data:`FIGURES`, grew by more than ``tolerance`` and the
    quartiles of the two runs do not overlap. Where a file has a case twice the last one counts.

    Args:
        before: Records of the first run.
        after: Records of the second.
        tolerance: Share by which a median has to change to be talked about.
    """
    first: dict[tuple[Any, ...], Record] = {record.key: record for record in before}
    second: dict[tuple[Any, ...], Record] = {record.key: record for record in after}
    return tuple(_difference(first.get(key), second.get(key), tolerance) for key in {**first, **second})


def _difference(before: Record | None, after: Record | None, tolerance: float) -> Difference:
    verdict = _verdict(before, after, tolerance)
    grown: tuple[str, ...] = ()
    if before is not None and after is not None and verdict in {Verdict.SLOWER, Verdict.FASTER}:
        pair = (before, after) if verdict is Verdict.SLOWER else (after, before)
        grown = _grown(*pair, tolerance)
    return Difference(before, after, verdict, grown)


def _verdict(before: Record | None, after: Record | None, tolerance: float) -> Verdict:
    if before is None or after is None:
        return Verdict.ONLY_AFTER if before is None else Verdict.ONLY_BEFORE
    if before.seconds is None or after.seconds is None:
        if after.status is Status.OK:
            return Verdict.FIXED
        return Verdict.BROKEN if before.status is Status.OK else Verdict.NOT_RUN
    if _grown(before, after, tolerance):
        return Verdict.SLOWER
    return Verdict.FASTER if _grown(after, before, tolerance) else Verdict.SAME


def _grown(before: Record, after: Record, tolerance: float) -> tuple[str, ...]:
    """Which figures grew, by more than noise; those that one of two runs does not have are passed over."""
    found = []
    for field, name in FIGURES.items():
        first, second = getattr(before, field), getattr(after, field)
        if first and second and second.median > first.median * (1 + tolerance) and second.lower > first.upper:
            found.append(name)
    return tuple(found)
