"""Which keys of each rank every other one needs, derived from places that all ranks know; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenring_xdit.hosts.transformers.kernels import Scores
from tokenring_xdit.hosts.transformers.placement import Placement
from tokenring_xdit.hosts.transformers.travel import Travel

__all__ = ["Plan", "Slice", "plan_pairs"]


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


@dataclass(frozen=True)
class Plan:
    """Who needs which keys of whom.

    Attributes:
        queries: The tokens of each rank, as ranges.
        seen: ``seen[i][j]``: keys of rank ``j`` that queries of rank ``i`` see.
    """

    queries: tuple[tuple[int, int], ...]
    seen: tuple[tuple[Slice, ...], ...]

    def travelling(self, travel: Travel, heads: int, kv_heads: int) -> Travel:
        """What travels: where it is left open, that of which less goes over all links together."""
        if travel is not Travel.SCHEDULE:
            return travel
        keys = queries = 0
        for rank, (start, stop) in enumerate(self.queries):
            for other, part in enumerate(self.seen[rank]):
                if other != rank and part.tokens:
                    keys += 2 * kv_heads * part.tokens
                    queries += 2 * heads * (stop - start)  # there, and an output as long back
        return Travel.QUERIES if queries < keys else Travel.KEYS


def plan_pairs(
    placement: Placement, queries: Sequence[tuple[int, int]], window: int | None, first_held: int = 0
) -> Plan:
    """Who needs which keys of whom.

    Args:
        placement: Who holds which keys.
        queries: The tokens of each rank, as ranges.
        window: How many keys a query sees, its own included; ``None`` for all.
        first_held: The first token whose keys are still held.
    """
    scores = Scores(1.0, window)
    rows = []
    for start, stop in queries:
        low = max(first_held, scores.first_key(start)) if stop > start else stop
        row = []
        for rank in range(placement.ranks):
            pieces = tuple(placement.pieces(rank, low, stop)) if stop > start else ()
            count = sum(last - first for first, last in pieces)
            row.append(Slice(placement.count(rank, first_held, low), count, pieces))
        rows.append(tuple(row))
    return Plan(tuple(queries), tuple(rows))
