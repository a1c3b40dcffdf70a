"""What a schedule makes of the links: how much each carries in all, and which ranks form a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction

from tokenring_xdit.schedule.drawing.chart import Move
from tokenring_xdit.schedule.plan import Block, Channel, Kind

__all__ = ["UNITS", "busiest", "groups", "loads", "thickness", "units"]

UNITS = {Kind.Q: 1, Kind.KV: 2, Kind.O: 1}
"""Size of a whole block, in blocks of queries: there are values with the keys."""


def units(block: Block) -> Fraction:
    """Size of a block or a piece, in whole blocks of queries."""
    return UNITS[block.kind] * block.share


def thickness(size: float | Fraction) -> float:
    """How thick the arrow of a transfer is, for its size in blocks of queries."""
    return max(1.0, 2.0 * float(size))


def loads(moves: Iterable[Move]) -> dict[tuple[int, int, Kind], Fraction]:
    """What goes from one rank to another in all, in blocks of queries, by source, destination and kind."""
    found: dict[tuple[int, int, Kind], Fraction] = defaultdict(Fraction)
    for move in moves:
        found[move.source, move.destination, move.block.kind] += units(move.block)
    order = list(Kind)
    return dict(sorted(found.items(), key=lambda item: (*item[0][:2], order.index(item[0][2]))))


def busiest(moves: Iterable[Move]) -> Fraction:
    """The most that goes from any rank to any other, in blocks of queries."""
    total: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for (source, destination, _), load in loads(moves).items():
        total[source, destination] += load
    return max(total.values(), default=Fraction(0))


def groups(moves: Iterable[Move], world_size: int) -> tuple[range, ...]:
    """Nodes, or columns of a grid: ranks that exchange anything but keys between nodes.

    Returns:
        The groups in rank order where they are consecutive ranks and more than one of more than one; one group of all
        ranks otherwise.
    """
    group_of = list(range(world_size))
    for move in moves:
        if move.channel is not Channel.NODES:
            joined, other = sorted((group_of[move.source], group_of[move.destination]))
            group_of = [joined if group == other else group for group in group_of]
    members = [[rank for rank in range(world_size) if group_of[rank] == group] for group in sorted(set(group_of))]
    found = tuple(range(ranks[0], ranks[-1] + 1) for ranks in members)
    apart = all(len(ranks) == len(group) for ranks, group in zip(members, found, strict=True))
    return found if apart and len(found) > 1 and any(len(group) > 1 for group in found) else (range(world_size),)
