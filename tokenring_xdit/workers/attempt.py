"""Feeds a :class:`~tokenring_xdit.workers.state.RequestAttempt` with what happens, until it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from tokenring_xdit.liveness import State
from tokenring_xdit.workers.state import Event, Instruction, Looked, RequestAttempt, TimePassed

__all__ = ["Life", "StoppedRanks", "WatchedRank", "carry_through"]

_POLL = 0.25
"""Seconds between two looks, at most, while somebody waits for ranks."""


class Life(Protocol):
    """A process, as far as it is watched."""

    @property
    def state(self) -> State:
        """What it does now."""


class WatchedRank(Protocol):
    """A rank, as far as it is watched."""

    def __hash__(self) -> int: ...

    @property
    def identity(self) -> Life | None:
        """Its process; ``None`` where it had ended before anybody could look, or runs on another host."""


W = TypeVar("W", bound=WatchedRank)


class StoppedRanks(Generic[W]):
    """Looks at ranks again and again, and tells for how long each of them has been stopped.

    Only time between looks that follow each other is counted: where all processes of a machine were stopped, and go on,
    whoever looks has slept as well.
    """

    def __init__(self) -> None:
        self._seconds: dict[W, float] = {}
        self._looked = time.monotonic()

    def look(self, ranks: Iterable[W]) -> dict[W, float]:
        """Those that are stopped, and for how many seconds."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * _POLL), now
        stopped = [rank for rank in ranks if rank.identity is not None and rank.identity.state is State.STOPPED]
        self._seconds = {rank: self._seconds.get(rank, -passed) + passed for rank in stopped}
        return self._seconds


def carry_through(
    attempt: RequestAttempt[W],
    hear: Callable[[float], Event[W] | None],
    carry_out: Callable[[Instruction], None] = lambda instruction: None,
) -> None:
    """Wait until the request has ended for every rank, or it was given up.

    Args:
        attempt: The request.
        hear: Waits for an event, at most that many seconds.
        carry_out: Does what the attempt says.
    """
    stopped: StoppedRanks[W] = StoppedRanks()
    while waiting := attempt.waiting:
        for instruction in attempt.handle(Looked(stopped.look(waiting))):
            carry_out(instruction)
        if attempt.waiting:
            wait = min(_POLL, max(0.0, attempt.deadline - time.monotonic()))
            for instruction in attempt.handle(hear(wait) or TimePassed(time.monotonic())):
                carry_out(instruction)
