"""Finds ranks that are stopped (SIGSTOP, a debugger), by what the system says of their processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from tokenring_xdit.liveness import ProcessIdentity, State

__all__ = ["POLL", "StoppedRanks", "WatchedRank"]

POLL = 0.25
"""Seconds between two looks, at most, while somebody waits for ranks."""


class WatchedRank(Protocol):
    """A rank, as far as it is watched."""

    def __hash__(self) -> int: ...

    @property
    def identity(self) -> ProcessIdentity | None:
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
        passed, self._looked = min(now - self._looked, 2 * POLL), now
        stopped = [rank for rank in ranks if rank.identity is not None and rank.identity.state is State.STOPPED]
        self._seconds = {rank: self._seconds.get(rank, -passed) + passed for rank in stopped}
        return self._seconds
