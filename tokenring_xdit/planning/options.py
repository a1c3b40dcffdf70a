"""Ways to divide ranks, what is predicted of each, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tokenring_xdit.parallel import ParallelDims

__all__ = ["TIE", "Option", "ranked_schedules", "ranked_splits", "seconds_of"]

TIE = 0.02
"""Differences in time that a simulation cannot tell."""


@dataclass(frozen=True)
class Option:
    """A way to divide ranks and what comes of it.

    Attributes:
        dims: How they are divided; one rank alone, whatever their number, is what the defaults say.
        seconds: Seconds of one attention call, simulated; ``None`` where it is not legal.
        launch: Seconds that the slowest host takes to launch it.
        exposed: Seconds of exposed communication in it.
        sent: Bytes that a rank sends, at most.
        messages: Messages that a rank sends, at most.
        memory: Bytes that a rank holds beside its inputs, at most.
        refusal: Why it is not legal.
        why: Why this is the one to take; for that one only.
    """

    dims: ParallelDims
    seconds: float | None = None
    launch: float | None = None
    exposed: float | None = None
    sent: int | None = None
    messages: int | None = None
    memory: int | None = None
    refusal: str | None = None
    why: str = ""


def seconds_of(option: Option) -> float:
    """Its time; without end where it is not legal."""
    return math.inf if option.seconds is None else option.seconds


_CRITERIA: tuple[tuple[Callable[[Option], int], str], ...] = (
    (lambda option: option.dims.flags.count("--"), "fewest flags"),
    (lambda option: option.memory or 0, "least memory"),
    (lambda option: option.sent or 0, "fewest bytes sent"),
)
"""What decides between splits that are equally fast, the first that differs."""


def ranked_splits(options: Sequence[Option]) -> tuple[Option, ...]:
    """By time, but the one to take first, which says why it is."""
    by_time = _by_time(options)
    tied = _as_fast_as_any(by_time)
    if not tied:
        return tuple(by_time)
    best = min(tied, key=lambda option: [count(option) for count, _ in _CRITERIA])
    return replace(best, why=_why(best, tied, by_time)), *(option for option in by_time if option is not best)


def ranked_schedules(options: Sequence[Option]) -> tuple[Option, ...]:
    """By time, the chosen one first: each is one flag, and fewer messages turned out faster."""
    by_time = _by_time(options)
    tied = _as_fast_as_any(by_time)
    if not tied:
        return tuple(by_time)
    best = min(tied, key=lambda option: (option.messages or 0, option.sent or 0, option.memory or 0))
    return best, *(option for option in by_time if option is not best)


def _by_time(options: Sequence[Option]) -> list[Option]:
    return sorted(options, key=lambda option: (seconds_of(option), str(option.dims)))


def _as_fast_as_any(by_time: Sequence[Option]) -> list[Option]:
    legal = [option for option in by_time if option.seconds is not None]
    return [option for option in legal if seconds_of(option) <= seconds_of(legal[0]) * (1 + TIE)]


def _why(best: Option, tied: Sequence[Option], by_time: Sequence[Option]) -> str:
    """Why it is the one to take: what is the first to tell it from the others that are as fast."""
    if len(tied) == 1:
        others = [option for option in by_time if option is not best and option.seconds is not None]
        if not others:
            return "nothing else is legal"
        slower = seconds_of(others[0]) / seconds_of(best) - 1
        return f"the fastest: the next, {others[0].dims}, takes {slower:.0%} more"
    reasons, left = [], list(tied)
    for count, what in _CRITERIA:
        least = min(map(count, left))
        if any(count(option) > least for option in left):
            reasons.append(what)
            left = [option for option in left if count(option) == least]
    among = f"one of {len(tied)} within {TIE:.0%} of the fastest ({tied[0].dims}), which a simulation cannot tell apart"
    return f"{among}: {', then '.join(reasons)}" if reasons else f"{among}; they send and hold alike"
