"""What a request will take: attention grows as the planner says, and factors are learned from what was served."""

from __future__ import annotations

import bisect
import math
import statistics
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from tokenring_xdit.serve.curves import Term, nearest_sum
from tokenring_xdit.serve.jobs import NO_INPUTS, InputPictures

__all__ = ["Forecast", "KeptTimes", "hang_limit"]

KeptTimes = tuple[InputPictures, int, Sequence[float]]
"""What was looked at, the size, and seconds of the latest requests of it."""

_REMEMBERED = 9
"""Requests of each size; their median is not moved by one that something else has slowed down."""

_MOST_SIZES = 256

_STEEPEST = 2.0
"""Exponent of time over sizes between two that were served: attention alone grows with their square."""

_ENOUGH = 3
"""Sizes from which on terms are told apart beyond them."""

_FAR = 4
"""Times the size of the largest request that was served, beyond which what is guessed gives no rank up."""

_HANG_STEPS, _HANG_SECONDS = 20.0, 60.0


def _squared(size: float) -> float:
    return size * size


class Forecast:
    """Seconds of a step, and of everything else, by size: pixels that are made together, or tokens.

    Between two sizes that were served time is taken for a power of the size. Outside of them it is the sum of what is
    the same for all, what grows with the size, and attention, each times what was learned; as long as there are but two
    sizes, it grows with them at least, and below a single one nothing is taken off. Size 0 stands for one that is not
    known, of which nothing is. Requests that look at other pictures (:class:`~tokenring_xdit.serve.jobs.InputPictures`)
    say nothing of each other. Any thread may ask.

    Args:
        step: How attention of a step grows.
        rest: How what grows most in the rest does.
    """

    def __init__(self, step: Term = _squared, rest: Term = _squared) -> None:
        self._steps, self._rest = _Curves(step), _Curves(rest)
        self._warm = False

    def learn(
        self,
        size: int,
        step_seconds: float,
        rest_seconds: float,
        inputs: InputPictures = NO_INPUTS,
        rest_size: int | None = None,
    ) -> None:
        """Take note of a request that was served.

        Args:
            size: Width times height times pictures that were made together; of a language model, tokens that each next
                one looks at.
            step_seconds: Seconds of one denoising step, or token.
            rest_seconds: Seconds of everything else: reading the prompt, decoding, the way back.
            inputs: What it looked at.
            rest_size: What the rest depends on, where that is something else: tokens to be read.
        """
        self._warm = True
        self._steps.of(inputs).learn(size, step_seconds)
        self._rest.of(inputs).learn(size if rest_size is None else rest_size, max(rest_seconds, 0.0))

    def step_seconds(self, size: int, inputs: InputPictures = NO_INPUTS) -> float | None:
        """Seconds of one step; ``None`` before anything was served."""
        return self._steps.of(inputs).at(size)

    def seconds(
        self, size: int, steps: int, inputs: InputPictures = NO_INPUTS, rest_size: int | None = None
    ) -> float | None:
        """Seconds of a request that is alone; ``None`` before anything was served."""
        step = self.step_seconds(size, inputs)
        rest = self._rest.of(inputs).at(size if rest_size is None else rest_size)
        return None if step is None or rest is None else steps * step + rest

    def longest_silence(
        self, size: int, inputs: InputPictures = NO_INPUTS, rest_size: int | None = None
    ) -> float | None:
        """Seconds that ranks are expected to say nothing for, at most.

        ``None`` far beyond what was served, and before these ranks have served anything: what others took, whom a
        server had before, leaves out what is made once.
        """
        longest = self.seconds(size, 1, inputs, rest_size)
        far = size > _FAR * self._steps.of(inputs).largest
        return None if longest is None or far or not self._warm else longest

    def cool(self) -> None:
        """Other ranks serve from now on, which have everything to make once."""
        self._warm = False

    @property
    def requests(self) -> int:
        """How many of those without pictures it remembers, of each size the latest."""
        return sum(len(seconds) for inputs, _, seconds in self._steps.kept() if inputs == NO_INPUTS)

    def kept(self) -> tuple[list[KeptTimes], list[KeptTimes]]:
        """All that was learned of steps, and of the rest."""
        return list(self._steps.kept()), list(self._rest.kept())

    def recall(self, steps: Sequence[KeptTimes], rest: Sequence[KeptTimes]) -> None:
        """Take up what was kept."""
        for curves, kept in ((self._steps, steps), (self._rest, rest)):
            for inputs, size, seconds in kept:
                for each in seconds:
                    curves.of(inputs).learn(size, each)


def hang_limit(silence: float | None, most: float) -> float:
    """Seconds without a sign of life after which ranks hang.

    Args:
        silence: What is expected; ``None`` where nothing is known.
        most: What is taken then, and never exceeded.
    """
    return most if silence is None else min(most, max(_HANG_SECONDS, _HANG_STEPS * silence))


class _Curves:
    """One for all requests that look at the same."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._curves: dict[InputPictures, _Curve] = {}

    def of(self, inputs: InputPictures) -> _Curve:
        return self._curves.setdefault(inputs, _Curve(self._term))

    def kept(self) -> Iterator[KeptTimes]:
        for inputs, curve in list(self._curves.items()):
            yield from ((inputs, size, tuple(seconds)) for size, seconds in curve.seen.items())


class _Curve:
    """Seconds over sizes."""

    def __init__(self, term: Term) -> None:
        self._terms: tuple[Term, ...] = (lambda size: 1.0, lambda size: size, term)
        self.seen: dict[int, deque[float]] = {}
        self._changing = threading.Lock()

    @property
    def largest(self) -> int:
        return max(self.seen, default=0)

    def learn(self, size: int, seconds: float) -> None:
        if size < 1:
            return
        with self._changing:
            seen = {**self.seen, size: deque([*self.seen.get(size, ()), seconds], maxlen=_REMEMBERED)}
            while len(seen) > _MOST_SIZES:
                seen.pop(next(iter(seen)))
            self.seen = seen

    def at(self, size: int) -> float | None:
        seen = self.seen
        sizes = sorted(seen)
        if not sizes or size < 1:
            return None
        known = [statistics.median(seen[each]) for each in sizes]
        if size in seen:
            return known[sizes.index(size)]
        above = bisect.bisect(sizes, size)
        if 0 < above < len(sizes):
            exponent = _exponent(sizes[above - 1], known[above - 1], sizes[above], known[above])
            return known[above - 1] * float((size / sizes[above - 1]) ** exponent)
        edge = 0 if above == 0 else -1
        least = size / sizes[-1] if above and len(sizes) < _ENOUGH else 0.0
        return known[edge] * max(least, self._growth(sizes, known, sizes[edge], size))

    def _growth(self, sizes: list[int], known: list[float], edge: int, size: int) -> float:
        """What a size takes over that of one that was served, beside all others."""
        if len(sizes) == 1 or min(known) <= 0:
            return max(1.0, size / edge)
        curve = nearest_sum(sizes, known, self._terms)
        return curve(size) / curve(edge)


def _exponent(size: int, seconds: float, larger: int, longer: float) -> float:
    if seconds <= 0 or longer <= 0:
        return 1.0
    return min(_STEEPEST, max(0.0, math.log(longer / seconds) / math.log(larger / size)))
