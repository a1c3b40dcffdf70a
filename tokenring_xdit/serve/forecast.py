"""What a request will take, learned from those that were served."""

from __future__ import annotations

import bisect
import math
import statistics
import threading
from collections import deque

from tokenring_xdit.serve.jobs import NO_INPUTS, InputPictures

__all__ = ["Forecast", "hang_limit"]

_REMEMBERED = 9
"""Requests of each size; their median is not moved by one that something else has slowed down."""

_MOST_SIZES = 256

_STEEPEST = 2.0
"""Exponent of time over pixels: attention alone grows with their square."""

_FAR = 4
"""Times the pixels of the largest request that was served, beyond which what is guessed gives no rank up."""

_HANG_STEPS, _HANG_SECONDS = 20.0, 60.0


class Forecast:
    """Seconds of a denoising step, and of everything else, by pixels that are made together.

    Between two sizes that were served time is taken for a power of the pixels; beyond the largest the last exponent is
    taken, but at least 1; below the smallest nothing is taken off beyond it. No pixels stand for a
    size that is not known, of which nothing is. Requests that look at other pictures
    (:class:`~tokenring_xdit.serve.jobs.InputPictures`) say nothing of each other. Any thread may ask.
    """

    def __init__(self) -> None:
        self._steps: dict[InputPictures, _Curve] = {}
        self._rest: dict[InputPictures, _Curve] = {}

    def learn(self, pixels: int, step_seconds: float, rest_seconds: float, inputs: InputPictures = NO_INPUTS) -> None:
        """Take note of a request that was served.

        Args:
            pixels: Width times height times pictures that were made together.
            step_seconds: Of one denoising step.
            rest_seconds: Of everything else: reading the prompt, decoding, the way back.
            inputs: What it looked at.
        """
        self._steps.setdefault(inputs, _Curve()).learn(pixels, step_seconds)
        self._rest.setdefault(inputs, _Curve()).learn(pixels, max(rest_seconds, 0.0))

    def step_seconds(self, pixels: int, inputs: InputPictures = NO_INPUTS) -> float | None:
        """Seconds of one denoising step; ``None`` before anything was served."""
        return self._steps.get(inputs, _Curve()).at(pixels)

    def seconds(self, pixels: int, steps: int, inputs: InputPictures = NO_INPUTS) -> float | None:
        """Seconds of a request that is alone; ``None`` before anything was served."""
        step, rest = self.step_seconds(pixels, inputs), self._rest.get(inputs, _Curve()).at(pixels)
        return None if step is None or rest is None else steps * step + rest

    def longest_silence(self, pixels: int, inputs: InputPictures = NO_INPUTS) -> float | None:
        """Seconds that ranks are expected to say nothing for, at most; ``None`` far beyond what was served."""
        longest = self.seconds(pixels, 1, inputs)
        return None if longest is None or pixels > _FAR * self._steps[inputs].largest else longest


def hang_limit(silence: float | None, most: float) -> float:
    """Seconds without a sign of life after which ranks hang.

    Args:
        silence: What is expected; ``None`` where nothing is known.
        most: What is taken then, and never exceeded.
    """
    return most if silence is None else min(most, max(_HANG_SECONDS, _HANG_STEPS * silence))


class _Curve:
    """Seconds over pixels."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[float]] = {}
        self._changing = threading.Lock()

    @property
    def largest(self) -> int:
        return max(self._seen, default=0)

    def learn(self, pixels: int, seconds: float) -> None:
        if pixels < 1:
            return
        with self._changing:
            seen = {**self._seen, pixels: deque([*self._seen.get(pixels, ()), seconds], maxlen=_REMEMBERED)}
            while len(seen) > _MOST_SIZES:
                seen.pop(next(iter(seen)))
            self._seen = seen

    def at(self, pixels: int) -> float | None:
        seen = self._seen
        sizes = sorted(seen)
        if not sizes or pixels < 1:
            return None
        known = [statistics.median(seen[size]) for size in sizes]
        if pixels in seen:
            return known[sizes.index(pixels)]
        above = bisect.bisect(sizes, pixels)
        if above == 0:
            return known[0]
        low = min(above, len(sizes) - 1) - 1
        if low < 0:
            return known[0] * pixels / sizes[0]
        exponent = _exponent(sizes[low], known[low], sizes[low + 1], known[low + 1])
        if above == len(sizes):
            return known[-1] * _power(pixels / sizes[-1], max(1.0, exponent))
        return known[low] * _power(pixels / sizes[low], exponent)


def _exponent(size: int, seconds: float, larger: int, longer: float) -> float:
    if seconds <= 0 or longer <= 0:
        return 1.0
    return min(_STEEPEST, max(0.0, math.log(longer / seconds) / math.log(larger / size)))


def _power(ratio: float, exponent: float) -> float:
    return float(ratio**exponent)
