"""How transfers share wires: max-min fair rates, as many TCP connections or copies at once come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenring_xdit.topology.network import Network

__all__ = ["Direction", "Share", "fair_rates", "fair_shares"]

Direction = tuple[str, str]
"""A direction of a wire: from node, to node."""

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
    users: dict[tuple[str, ...], list[tuple[int, float]]] = defaultdict(list)
    left: dict[tuple[str, ...], float] = {}
    for index, route in enumerate(routes):
        for a, b in route:
            users[a, b].append((index, 1 / capacity[a, b]))
            left[a, b] = 1.0
            if duplex < 1:
                both = (*sorted((a, b)), "both")
                users[both].append((index, 1 / capacity[a, b]))
                left[both] = 2 * duplex
    shares: dict[int, Share] = {}
    reached = 0.0
    growing = set(range(len(routes)))
    while growing:
        taken = {limit: [part for index, part in users[limit] if index in growing] for limit in left}
        taken = {limit: parts for limit, parts in taken.items() if parts}
        step = min(left[limit] / sum(parts) for limit, parts in taken.items())
        reached += step
        for limit, parts in taken.items():
            left[limit] -= step * sum(parts)
        # Of several that are full at the same time the one that most share comes first.
        for limit in sorted(taken, key=lambda limit: -len(taken[limit])):
            if left[limit] <= _NOTHING:
                for index, _ in users[limit]:
                    shares.setdefault(index, Share(reached, limit))
        growing -= shares.keys()
    return [shares[index] for index in range(len(routes))]
