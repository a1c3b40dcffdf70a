"""Two runs of a sweep, case by case: what became slower by more than their own spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokenring_xdit.bench.records import Record, Status

__all__ = ["Difference", "Verdict", "compare"]


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
    """

    before: Record | None
    after: Record | None
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """Median after over median before, where it ran in both."""
        if self.before is None or self.after is None or not self.before.seconds or not self.after.seconds:
            return None
        return self.after.seconds.median / self.before.seconds.median


def compare(before: Sequence[Record], after: Sequence[Record], *, tolerance: float = 0.05) -> tuple[Difference, ...]:
    """Compare two runs.

    A case is slower where its median grew by more than ``tolerance`` and the quartiles of the two runs do not
    overlap. Where a file has a case twice the last one counts.

    Args:
        before: Records of the first run.
        after: Records of the second.
        tolerance: Share by which a median has to change to be talked about.
    """
    first: dict[tuple[Any, ...], Record] = {record.key: record for record in before}
    second: dict[tuple[Any, ...], Record] = {record.key: record for record in after}
    return tuple(
        Difference(first.get(key), second.get(key), _verdict(first.get(key), second.get(key), tolerance))
        for key in {**first, **second}
    )


def _verdict(before: Record | None, after: Record | None, tolerance: float) -> Verdict:
    if before is None or after is None:
        return Verdict.ONLY_AFTER if before is None else Verdict.ONLY_BEFORE
    if before.seconds is None or after.seconds is None:
        if after.status is Status.OK:
            return Verdict.FIXED
        return Verdict.BROKEN if before.status is Status.OK else Verdict.NOT_RUN
    if after.seconds.median > before.seconds.median * (1 + tolerance) and after.seconds.lower > before.seconds.upper:
        return Verdict.SLOWER
    if before.seconds.median > after.seconds.median * (1 + tolerance) and before.seconds.lower > after.seconds.upper:
        return Verdict.FASTER
    return Verdict.SAME
