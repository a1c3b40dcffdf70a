"""How much memory a request will need on a rank, learned from those that were served, and whether that much is free."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from tokenring_xdit.pipelines.messages import MemoryUse
from tokenring_xdit.serve.curves import Term, nearest_sum
from tokenring_xdit.serve.jobs import NO_INPUTS, InputPictures

__all__ = ["KeptNeeds", "MemoryForecast"]

KeptNeeds = tuple[InputPictures, int, Sequence[int]]
"""What was looked at, the size, and bytes beyond the model that the latest requests of it needed."""

_REMEMBERED = 9
"""Requests of each size, the largest of which counts: what was needed once may be needed again."""

_MOST_SIZES = 256

_FAR = 4
"""Times the pixels of the largest request that was served, beyond which only half of what is guessed counts."""

_STALE = 600.0
"""Seconds after which what ranks said of this machine's memory refuses nothing any more: others may have left it.

Also those after which a request that was served, and needed more than is free now, is forgotten: as long as it is
known, its size is refused, and nothing new is learned of it.
"""

_SPARE = 1.05
"""Times what a size will need that has to be free where it is named as one that fits."""

_ENOUGH = 4
"""Sizes from which on more than a line is seen in them."""

_TERMS: tuple[Term, ...] = (lambda pixels: 1.0, lambda pixels: pixels, lambda pixels: pixels * pixels)
"""What a request needs: the same for all, a line, and its square."""


class MemoryForecast:
    """Bytes of a rank beyond its model, by pixels that are made together.

    Between two sizes that were served it is a line; outside of them a sum of what is the same for all, what grows with
    the pixels and, from four sizes on, with their square, none of which is negative. Requests that look at other
    pictures (:class:`~tokenring_xdit.serve.jobs.InputPictures`) say nothing of each other. Any thread may ask.

    Args:
        limit: Bytes that a rank may hold, its model included; ``None`` for what its GPU or machine has.
        tell: Called with the real peak over the predicted one, both with the model, for each request with a forecast.
        clock: Seconds.

    Attributes:
        model: Bytes of the model on the rank that has most of it; ``None`` before anything was served.
    """

    def __init__(
        self,
        limit: int | None = None,
        tell: Callable[[float], object] = lambda ratio: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._tell, self._clock = limit, tell, clock
        self._seen: dict[InputPictures, dict[int, deque[tuple[int, float]]]] = {}
        self._free: int | None = None
        self.model: int | None = None
        self._told = 0.0
        self._changing = threading.Lock()

    def learn(self, pixels: int, ranks: Sequence[MemoryUse], inputs: InputPictures = NO_INPUTS) -> None:
        """Take note of a request that was served.

        Args:
            pixels: Width times height times frames and pictures that were made together.
            ranks: What each of them held; none where that could not be measured.
            inputs: What it looked at.
        """
        if pixels < 1 or not ranks:
            return
        expected, model = self.needed(pixels, inputs), max(use.model for use in ranks)
        needed = max(1, *(use.peak - use.model for use in ranks))
        if expected is not None:
            self._tell((model + needed) / (model + expected))
        with self._changing:
            before, self._told = self._seen.get(inputs, {}), self._clock()
            latest = deque([*before.get(pixels, ()), (needed, self._told)], maxlen=_REMEMBERED)
            seen = {**before, pixels: latest}
            while len(seen) > _MOST_SIZES:
                seen.pop(next(iter(seen)))
            self._seen, self.model = {**self._seen, inputs: seen}, model
            self._free = min(min(use.limit, self._limit or use.limit) - use.model for use in ranks)

    def needed(self, pixels: int, inputs: InputPictures = NO_INPUTS) -> float | None:
        """Bytes of the rank that needs most, beyond its model; ``None`` before anything was served."""
        seen = self._known(inputs)
        sizes = sorted(seen)
        if not sizes or pixels < 1:
            return None
        known = [seen[size] for size in sizes]
        above = bisect.bisect_left(sizes, pixels)
        if 0 < above < len(sizes):
            return float(np.interp(pixels, sizes, known))
        edge = 0 if above == 0 else -1
        if pixels == sizes[edge]:
            return known[edge]
        if len(sizes) == 1:
            return known[0] * max(1.0, pixels / sizes[0])
        curve = nearest_sum(sizes, known, _TERMS[: 3 if len(sizes) >= _ENOUGH else 2])
        return known[edge] * curve(pixels) / curve(sizes[edge])

    def peak(self, pixels: int, inputs: InputPictures = NO_INPUTS) -> int | None:
        """The same with its model."""
        needed = self.needed(pixels, inputs)
        return None if needed is None or self.model is None else self.model + round(needed)

    def kept(self) -> list[KeptNeeds]:
        """All that was learned."""
        return [
            (inputs, size, tuple(needed for needed, _ in latest))
            for inputs, seen in self._seen.items()
            for size, latest in seen.items()
        ]

    def recall(self, kept: Sequence[KeptNeeds], model: int) -> None:
        """Take up what was kept; it refuses nothing before ranks have said what is free now."""
        with self._changing:
            self.model, now = model, self._clock()
            for inputs, size, needs in kept:
                latest = deque([(needed, now) for needed in needs], maxlen=_REMEMBERED)
                self._seen = {**self._seen, inputs: {**self._seen.get(inputs, {}), size: latest}}

    def free(self) -> int | None:
        """Bytes that a rank had beside its model when it was heard of last; ``None`` where that says nothing."""
        stale = self._limit is None and self._clock() - self._told > _STALE
        return None if stale else self._free

    def too_much(self, pixels: int, inputs: InputPictures = NO_INPUTS) -> bool:
        """Whether it is known that a request does not fit: from two sizes on, and less surely far beyond them."""
        needed, free, seen = self.needed(pixels, inputs), self.free(), self._known(inputs)
        largest = max(seen, default=0)
        if needed is None or free is None or (pixels > largest and len(seen) < 2):
            return False
        return needed * (0.5 if pixels > _FAR * largest else 1.0) > free

    def fits(self, pixels: int, inputs: InputPictures = NO_INPUTS) -> bool:
        """Whether it is known that a request fits, and is not only not known to be too much."""
        needed, free = self.needed(pixels, inputs), self.free()
        return needed is not None and free is not None and needed * _SPARE <= free

    def _known(self, inputs: InputPictures) -> dict[int, float]:
        """The most that each size needed, of what counts."""
        free, since = self.free(), self._clock() - _STALE
        counts = {
            size: [needed for needed, when in latest if when >= since or free is None or needed <= free]
            for size, latest in self._seen.get(inputs, {}).items()
        }
        return {size: float(max(needed)) for size, needed in counts.items() if needed}
