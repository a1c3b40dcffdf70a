"""How transfers share wires: max-min fair rates, as many TCP connections or copies at once come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tokenring_xdit.topology.network import Network

__all__ = ["Amounts", "Direction", "Numbers", "Share", "fair_rates", "fair_shares", "fill"]

Direction = tuple[str, str]
"""A direction of a wire: from node, to node."""
Numbers = NDArray[np.intp]
Amounts = NDArray[np.float64]

_NOTHING = 1e-9  # of a wire that is left is rounding


@dataclass(frozen=True)
class Share:
    """What a transfer gets.

    Attributes:
        rate: In the unit of the capacities.
        limit: What is full and keeps it from more: a direction, or both of a wire that are not independent.
            Transfers with the same limit share it.
    """

    rate: float
    limit: tuple[str, ...]


def fair_rates(network: Network, transfers: Sequence[tuple[str, str]]) -> list[float]:
    """The rate of each of several transfers between hosts that run at the same time.

    Args:
        network: Whose routes they take.
        transfers: Source and destination of each.

    Returns:
        Bits a second, of what the network's rates count.
    """
    routes = [tuple(pairwise(network.route(*transfer))) for transfer in transfers]
    capacity = {(a, b): float(network.wire(a, b).rate_from(a).bits_per_second) for route in routes for a, b in route}
    return [share.rate for share in fair_shares(routes, capacity)]


def fair_shares(
    routes: Sequence[Sequence[Direction]], capacity: Mapping[Direction, float], duplex: float = 1.0
) -> list[Share]:
    """Max-min fair shares: all grow alike, and each stops where a wire of its route is full.

    Args:
        routes: The directions that each transfer loads.
        capacity: What each direction carries.
        duplex: What a wire carries in both directions at once, over the sum of what they carry alone.
    """
    if duplex >= 1 and len(routes) == 1:
        slowest = min(routes[0], key=capacity.__getitem__)
        return [Share(capacity[slowest], slowest)]
    # What can be full is a direction, or both of a wire where they are not independent; a transfer takes a part of it.
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


def fill(users: int, user: Numbers, limit: Numbers, part: Amounts, room: Amounts) -> tuple[Amounts, Numbers]:
    """Let all users of some limits grow alike until each meets one that is full: :func:`fair_shares` in numbers.

    Args:
        users: How many there are; each meets a limit.
        user: Of each pair of a user and a limit the user.
        limit: And the limit.
        part: And what of the limit a rate of 1 takes.
        room: What each limit has.

    Returns:
        The rate of each user, and the limit that keeps it from more.
    """
    rates, reasons = np.zeros(users), np.zeros(users, dtype=np.intp)
    left, reached = room.copy(), 0.0
    while user.size:
        taken = np.bincount(limit, part, minlength=len(left))
        used = taken > 0
        step = float((left[used] / taken[used]).min())
        reached += step
        left -= step * taken
        met = np.flatnonzero((left <= _NOTHING)[limit])
        # Of several that are full at the same time the one that most share: of equal indices the last one is kept.
        sharing = np.bincount(limit)[limit[met]]
        met = met[np.lexsort((-limit[met], sharing))]
        reasons[user[met]] = limit[met]
        rates[user[met]] = reached
        growing = np.ones(users, dtype=bool)
        growing[user[met]] = False
        kept = growing[user]
        user, limit, part = user[kept], limit[kept], part[kept]
    return rates, reasons
