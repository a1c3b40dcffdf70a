"""Feeds a :class:`~tokenring_xdit.workers.state.RequestAttempt` with what happens, until it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tokenring_xdit.workers.state import Event, Instruction, Looked, RequestAttempt, TimePassed
from tokenring_xdit.workers.stopped import POLL, StoppedRanks, WatchedRank

__all__ = ["carry_through"]

W = TypeVar("W", bound=WatchedRank)


def carry_through(
    attempt: RequestAttempt[W],
    hear: Callable[[float], Event[W] | None],
    carry_out: Callable[[Instruction], None] = lambda instruction: None,
) -> None:
    """Wait until the request has ended for every rank, or it was given up.

    Args:
        attempt: The request.
        hear: Waits for an event, at most so many seconds.
        carry_out: Does what the attempt says.
    """
    stopped: StoppedRanks[W] = StoppedRanks()
    while waiting := attempt.waiting:
        for instruction in attempt.handle(Looked(stopped.look(waiting))):
            carry_out(instruction)
        if attempt.waiting:
            wait = min(POLL, max(0.0, attempt.deadline - time.monotonic()))
            for instruction in attempt.handle(hear(wait) or TimePassed(time.monotonic())):
                carry_out(instruction)
