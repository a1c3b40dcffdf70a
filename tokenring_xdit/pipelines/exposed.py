"""What share of its work a rank waits for messages of attention, with nothing to compute meanwhile."""

from __future__ import annotations

import time

from tokenring_xdit.attention.groups import all_seconds_waited

__all__ = ["ExposedMeter"]


class ExposedMeter:
    """Measures a request from its first look to its last one.

    Looks are behind steps: the first step opens connections and allocates, and is not measured.
    """

    def __init__(self) -> None:
        self._looks: list[tuple[float, float | None]] = []

    def begin(self) -> None:
        """A request begins."""
        self._looks = []

    def look(self) -> None:
        """Look at the clock, and at what this rank has waited."""
        self._looks = [*self._looks[:1], (time.perf_counter(), all_seconds_waited())]

    @property
    def share(self) -> float | None:
        """From 0 to 1; ``None`` with fewer than two looks, and where nobody knows what was waited."""
        if len(self._looks) < 2:
            return None
        (began, before), (ended, after) = self._looks
        if before is None or after is None:
            return None
        return min(1.0, max(0.0, (after - before) / (ended - began)))  # a group may be gone, with what it has waited
