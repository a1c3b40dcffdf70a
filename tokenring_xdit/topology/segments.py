"""In what pieces the wires of an emulated network carry what is sent: each costs processor time, and delay."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from tokenring_xdit.topology.network import FRAME, Network, Wire

__all__ = ["segment"]

_LONGEST = 65536  # bytes: the kernel's
# Seconds on the wire, at most. Every segment costs processor time that the ranks want, and what is passed on is late by
# one: in segments of 1 ms a star of 8 takes half of two cores, of 2 ms a quarter.
_SECONDS, _SECONDS_PASSED_ON = 0.008, 0.002


def segment(network: Network, wire: Wire, node: str) -> int:
    """Bytes that a node may hand to a wire in one go.

    Args:
        network: Whose rates count frames.
        wire: The wire.
        node: The end of it that sends.
    """
    seconds = _SECONDS_PASSED_ON if wire in _passing_on(network) else _SECONDS
    return min(_LONGEST, max(2 * FRAME, round(wire.rate_from(node).bits_per_second / 8 * seconds)))


@lru_cache(maxsize=16)
def _passing_on(network: Network) -> frozenset[Wire]:
    """Wires that carry what some node passes on."""
    routes = (network.route(a, b) for a in network.hosts for b in network.hosts if a != b)
    return frozenset(network.wire(*ends) for route in routes if len(route) > 2 for ends in pairwise(route))
