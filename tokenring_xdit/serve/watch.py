"""Looks whether the ranks of an engine are still there while they have nothing to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tokenring_xdit.liveness import State
from tokenring_xdit.workers.attempt import Life, StoppedRanks
from tokenring_xdit.workers.starting import StartedRank

__all__ = ["LOST_REASONS", "Lost", "RankWatch"]

LOST_REASONS = ("died", "stopped")

_PATIENCE = 10.0
"""Seconds for a process that was killed to be gone."""


@dataclass(frozen=True)
class Lost:
    """Why the ranks cannot go on.

    Attributes:
        reason: One of :data:`LOST_REASONS`, or another one of whoever finds out.
        words: The same as a sentence.
    """

    reason: str
    words: str


@dataclass(frozen=True)
class _Watched:
    rank: int
    identity: Life | None
    started: StartedRank


class RankWatch:
    """Watches ranks.

    Args:
        ranks: Ranks of all worlds.
        limit: Seconds for which a rank may be stopped.
    """

    def __init__(self, ranks: Sequence[StartedRank], limit: float) -> None:
        self._ranks = [_Watched(number, rank.identity, rank) for number, rank in enumerate(ranks)]
        self._limit = limit
        self._stopped: StoppedRanks[_Watched] = StoppedRanks()

    def look(self) -> Lost | None:
        """What is lost now; to be called several times a second, as a stop is counted between two calls."""
        dead = [each for each in self._ranks if _state(each) is State.GONE]
        if dead:
            return Lost("died", f"{_named(dead)} died while there was nothing to do")
        late = [each for each, seconds in self._stopped.look(self._ranks).items() if seconds >= self._limit]
        if late:
            return Lost("stopped", f"{_named(late)} had been stopped for {self._limit:g} s")
        return None

    def up(self) -> list[bool]:
        """Which ranks run, by rank."""
        return [_state(each) is State.RUNNING for each in self._ranks]

    def memory(self) -> dict[int, int]:
        """Resident bytes of the ranks that are there."""
        found = {each.rank: each.started.memory() for each in self._ranks}
        return {rank: held for rank, held in found.items() if held is not None}

    def kill(self) -> None:
        """End all of them, also those that are stopped, and wait until they are gone."""
        deadline = time.monotonic() + _PATIENCE
        for each in self._ranks:
            if _state(each) is not State.GONE:
                each.started.kill()
        while any(_state(each) is not State.GONE for each in self._ranks) and time.monotonic() < deadline:
            time.sleep(0.01)


def _state(rank: _Watched) -> State:
    return State.GONE if rank.identity is None else rank.identity.state


def _named(ranks: Sequence[_Watched]) -> str:
    named = [f"{each.rank}" + (f" on node {node}" if (node := each.started.node) else "") for each in ranks]
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(named)}"
