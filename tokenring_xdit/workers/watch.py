"""Finds ranks that are stopped (SIGSTOP, a debugger), by what the system says of their processes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.liveness import LIMIT, LIMIT_VARIABLE, ProcessIdentity, State

__all__ = ["POLL", "Stopped", "Watch", "liveness_limit"]

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


def liveness_limit() -> float:
    """Seconds after which a rank that is stopped is given up.

    Raises:
        ConfigurationError: The environment variable is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text) if text else LIMIT
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise ConfigurationError(f"{LIMIT_VARIABLE} is {text!r}; it has to be a positive number of seconds")
    return limit


class Watch:
    """Looks at ranks again and again.

    Only time between looks that follow each other is counted: where all processes of a machine were stopped, and go on,
    whoever looks has slept as well.

    Args:
        limit: Seconds; :func:`liveness_limit` by default.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = liveness_limit() if limit is None else limit
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
