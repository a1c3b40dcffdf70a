"""How transfers share wires: max-min fair rates, as many TCP connections or copies at once come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from tokenring_xdit.topology.network import Network

__all__ = ["Direction", "fair_rates", "shared_rates"]

Direction = tuple[str, str]
"""A direction of a wire: from node, to node."""


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
    return shared_rates(routes, capacity)


def shared_rates(
    routes: Sequence[Sequence[Direction]], capacity: Mapping[Direction, float], duplex: float = 1.0
) -> list[float]:
    """Max-min fair rates: all grow alike, and each stops where a wire of its route is full.

    Args:
        routes: The directions that each transfer loads.
        capacity: What each direction carries.
        duplex: What a wire carries in both directions at once, over the sum of what they carry alone.
    """
    if duplex >= 1 and len(routes) == 1:
        return [min(capacity[direction] for direction in routes[0])]
    # A resource is a direction, or both of a wire where they are not independent; a transfer takes a share of it.
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
    rates = [0.0] * len(routes)
    growing = set(range(len(routes)))
    while growing:
        taken = {r: sum(share for index, share in users[r] if index in growing) for r in left}
        step = min(left[r] / taken[r] for r in left if taken[r] > 0)
        for index in growing:
            rates[index] += step
        full = set()
        for resource, share in taken.items():
            if share > 0:
                left[resource] -= step * share
                if left[resource] <= 1e-9:
                    full.update(index for index, _ in users[resource])
        growing -= full
    return rates
