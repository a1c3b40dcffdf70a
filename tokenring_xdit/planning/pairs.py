"""Which keys of each rank every other one needs, derived from places that all ranks know; pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from tokenring_xdit.planning.placement import Placement

__all__ = ["Plan", "Slice", "first_key", "plan_pairs"]


class Slice(NamedTuple):
    """Keys of a rank that another rank's queries may see.

    Attributes:
        offset: The first of them among those that the rank holds.
        tokens: How many.
        pieces: Their places in the sequence, as ranges.
    """

    offset: int
    tokens: int
    pieces: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Who needs which keys of whom; there is one of a kind, by :func:`plan_pairs`.

    Attributes:
        queries: The tokens of each rank, as ranges.
        held: How many keys each rank holds.
        seen: ``seen[i][j]``: keys of rank ``j`` that queries of rank ``i`` see.
        window: How many keys a query sees, its own included; ``None`` for all up to its own.
    """

    queries: tuple[tuple[int, int], ...]
    held: tuple[int, ...]
    seen: tuple[tuple[Slice, ...], ...]
    window: int | None

    def pairs(self, rank: int, other: int) -> int:
        """How many pairs of a rank's queries and another rank's keys are attended."""
        start, stop = self.queries[rank]
        found = sum(_causal_pairs(start, stop, *piece) for piece in self.seen[rank][other].pieces)
        if self.window is None:
            return found
        start, stop = start - self.window, stop - self.window
        return found - sum(_causal_pairs(start, stop, *piece) for piece in self.seen[rank][other].pieces)


def first_key(query: int, window: int | None) -> int:
    """The first key that a query may see."""
    return 0 if window is None else max(0, query - window + 1)


@lru_cache(maxsize=64)
def plan_pairs(
    placement: Placement, queries: tuple[tuple[int, int], ...], window: int | None, first_held: int = 0
) -> Plan:
    """Who needs which keys of whom.

    Args:
        placement: Who holds which keys.
        queries: The tokens of each rank, as ranges.
        window: How many keys a query sees, its own included; ``None`` for all.
        first_held: The first token whose keys are still held.
    """
    ranks = range(placement.ranks)
    rows = []
    for start, stop in queries:
        low = max(first_held, first_key(start, window)) if stop > start else stop
        row = []
        for rank in ranks:
            pieces = tuple(placement.pieces(rank, low, stop)) if stop > start else ()
            count = sum(last - first for first, last in pieces)
            row.append(Slice(placement.count(rank, first_held, low), count, pieces))
        rows.append(tuple(row))
    held = tuple(placement.count(rank, first_held) for rank in ranks)
    return Plan(queries, held, tuple(rows), window)


def _causal_pairs(start: int, stop: int, low: int, high: int) -> int:
    """Pairs of a query of ``start..stop - 1`` and a key of ``low..high - 1`` that is not behind it."""

    def until(queries: int) -> int:  # pairs of the queries from the first key on
        within = min(max(queries, 0), high - low)
        return within * (within + 1) // 2 + (max(queries, 0) - within) * (high - low)

    return until(stop - low) - until(start - low)
