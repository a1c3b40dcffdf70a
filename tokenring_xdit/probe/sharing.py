"""What transfers that run at the same time get of the links they share, as a network has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenring_xdit.topology.sharing import Direction, fill

__all__ = ["Share", "fair_shares"]


@dataclass(frozen=True)
class Share:
    """What a transfer gets.

    Attributes:
        rate: In the unit of the capacities.
        limit: What is full and keeps it from more: a direction, or both of a link that are not independent.
            Transfers with the same limit share it.
    """

    rate: float
    limit: tuple[str, ...]


def fair_shares(
    routes: Sequence[Sequence[Direction]], capacity: Mapping[Direction, float], duplex: float = 1.0
) -> list[Share]:
    """Max-min fair shares: all grow alike, and each stops where a link of its route is full.

    Args:
        routes: The directions that each transfer loads.
        capacity: What each direction carries.
        duplex: What a link carries in both directions at once, over the sum of what they carry alone.
    """
    if duplex >= 1 and len(routes) == 1:
        slowest = min(routes[0], key=capacity.__getitem__)
        return [Share(capacity[slowest], slowest)]
    # What can be full is a direction, or both of a link where they are not independent; a transfer takes a part of it.
    limits: dict[tuple[str, ...], int] = {}
    entries: list[tuple[int, int, float]] = []
    for index, route in enumerate(routes):
        for a, b in route:
            names: list[tuple[str, ...]] = [(a, b)]
            if duplex < 1:
                names.append((*sorted((a, b)), "both"))
            entries += [(index, limits.setdefault(name, len(limits)), 1 / capacity[a, b]) for name in names]
    user, limit, part = map(np.array, zip(*entries, strict=True))
    room = np.array([1.0 if len(name) == 2 else 2 * duplex for name in limits])
    rates, reasons = fill(len(routes), user, limit, part, room)
    known = list(limits)
    return [Share(rate, known[reason]) for rate, reason in zip(rates.tolist(), reasons.tolist(), strict=True)]
