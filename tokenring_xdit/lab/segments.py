"""In what pieces the links of an emulated network carry what is sent: each costs processor time, and delay."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from tokenring_xdit.topology.links import FRAME, Link
from tokenring_xdit.topology.network import Network
from tokenring_xdit.topology.sharing import Direction

__all__ = ["CATCH_UP", "segment"]

CATCH_UP = 0.002
"""Seconds that a link may catch up after a pause. One segment more goes at once: ``htb`` sends it, then counts it."""


_LONGEST = 65536  # bytes: the kernel's
# Seconds on a link, at most; on any, where others pass it on. Every segment costs processor time that the ranks want,
# and what is passed on is late by one: in segments of 1 ms a star of 8 takes half of two cores, of 2 ms a quarter.
_SECONDS, _SECONDS_PASSED_ON = 0.008, 0.002
# On the first link at least, whatever slower ones follow: eight hosts that fill 1 Gbit/s take two cores even so.
_SECONDS_FIRST = 0.0005


def segment(network: Network, link: Link, node: str) -> int:
    """Bytes that a node may hand to a link in one go.

    Args:
        network: Whose rates count frames.
        link: The link.
        node: The end of it that sends.
    """
    other = link.b if node == link.a else link.a
    return _segments(network).get((node, other), _LONGEST)  # some links are on no way


@lru_cache(maxsize=16)
def _segments(network: Network) -> dict[Direction, int]:
    """Of each direction of each link, never less than on the link before: longer ones would be cut into frames there.

    The kernel does so (``gso_features_check``), and each frame costs about as much as a whole segment.
    """
    routes = (network.route(a, b) for a in network.hosts for b in network.hosts if a != b)
    ways = [tuple(pairwise(route)) for route in routes]
    passing_on = {frozenset(ends) for way in ways if len(way) > 1 for ends in way}

    def longest(ends: Direction, seconds: float) -> int:
        rate = network.link(*ends).rate_from(ends[0])
        return min(_LONGEST, max(2 * FRAME, round(rate.bits_per_second / 8 * seconds)))

    made: dict[Direction, int] = {}  # by the hosts
    for first, *onward in ways:
        own = longest(first, _SECONDS_PASSED_ON if frozenset(first) in passing_on else _SECONDS)
        slowest = min((longest(ends, _SECONDS_PASSED_ON) for ends in onward), default=own)
        made[first] = min(made.get(first, own), max(slowest, longest(first, _SECONDS_FIRST)))
    found: dict[Direction, int] = {}
    for way in ways:
        for ends in way:
            found[ends] = max(found.get(ends, 0), made[way[0]])
    return found
