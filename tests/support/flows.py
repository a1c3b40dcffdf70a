"""How transfers share a network, worked out in another way than the package does: levels are found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tokenring_xdit.topology import Network

_HALVINGS = 50  # of the interval in which a level is looked for
_FULL = 1 - 1e-9


def rates_together(network: Network, transfers: Sequence[tuple[int, int]], duplex: float = 1.0) -> list[float]:
    """Bits a second of each of several transfers between ranks that run at the same time.

    Args:
        network: The network; rank ``r`` is at its r-th host.
        transfers: Source and destination of each.
        duplex: What a link carries in both directions at once, over the sum of what they carry alone.
    """
    hosts = network.hosts
    links = list(network.links)
    number = {ends: index for index, link in enumerate(links) for ends in (link.ends, link.ends[::-1])}
    loads = np.zeros((2 * len(links), len(transfers)))  # there, then back
    capacity = np.array([w.rate.bits_per_second for w in links] + [w.back.bits_per_second for w in links], float)
    for column, (source, destination) in enumerate(transfers):
        for a, b in pairwise(network.route(hosts[source], hosts[destination])):
            index = number[a, b]
            loads[index if links[index].a == a else index + len(links), column] = 1
    rates, growing = np.zeros(len(transfers)), np.ones(len(transfers), bool)

    def used(level: float) -> np.ndarray:
        """The used share of each direction, and of both together, where all that grow have reached a level."""
        shares = loads @ np.where(growing, level, rates) / capacity
        both = (shares[: len(links)] + shares[len(links) :]) / (2 * duplex)
        return np.maximum(shares, np.tile(both, 2)) if duplex < 1 else shares

    while growing.any():
        low, high = 0.0, float(capacity.max())
        for _ in range(_HALVINGS):
            level = (low + high) / 2
            low, high = (level, high) if used(level).max() <= 1 else (low, level)
        full = used(low) >= _FULL
        stopping = growing & (loads[full] > 0).any(axis=0)
        rates[stopping] = low
        growing &= ~stopping
    return [float(rate) for rate in rates]
