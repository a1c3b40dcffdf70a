"""Finds ranks that are stopped (SIGSTOP, a debugger), by what the system says of their processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tokenring_xdit import liveness
from tokenring_xdit.liveness import ProcessIdentity, State

__all__ = ["POLL", "Stopped", "Watch"]

POLL = 0.25
"""Seconds between two looks, at most, while somebody waits for ranks."""


class Watched(Protocol):
    """A rank, as far as it is watched."""

    @property
    def identity(self) -> ProcessIdentity | None:
        """Its process; ``None`` where it had ended before anybody could look."""


AnyRank = TypeVar("AnyRank", bound=Watched)


@dataclass(frozen=True)
class Stopped:
    """In a rank's stead: it is stopped and was not waited for any longer.

    Attributes:
        seconds: For how long that was watched.
    """

    seconds: float


class Watch:
    """Looks at ranks again and again.

    Only time between looks that follow each other is counted: where all processes of a machine were stopped, and go on,
    whoever looks has slept as well.

    Args:
        limit: Seconds; :func:`tokenring_xdit.liveness.limit` by default.

    Raises:
        ConfigurationError: The environment says a limit that is none.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = liveness.limit() if limit is None else limit
        self._seconds: dict[Watched, float] = {}
        self._looked = time.monotonic()

    def look(self, ranks: Iterable[AnyRank]) -> dict[AnyRank, Stopped]:
        """Those that have been stopped for as long as the limit."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * POLL), now
        stopped = _stopped(ranks)
        self._seconds = {rank: self._seconds.get(rank, -passed) + passed for rank in stopped}
        return {rank: Stopped(self._seconds[rank]) for rank in stopped if self._seconds[rank] >= self.limit}

    def stopped_now(self, ranks: Iterable[AnyRank]) -> dict[AnyRank, Stopped]:
        """Those that are stopped, for however long: the cause, where others have failed."""
        return {rank: Stopped(self._seconds.get(rank, 0.0)) for rank in _stopped(ranks)}


def _stopped(ranks: Iterable[AnyRank]) -> list[AnyRank]:
    return [rank for rank in ranks if rank.identity is not None and rank.identity.state is State.STOPPED]
