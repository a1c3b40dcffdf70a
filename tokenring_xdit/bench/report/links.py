"""What every direction of every link carried, from what the interfaces of an emulated network counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tokenring_xdit.bench.records import Record
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.topology import Network, load_network

__all__ = ["LinkLoad", "busiest_seconds", "links_of"]


@dataclass(frozen=True)
class LinkLoad:
    """One direction of a link.

    Attributes:
        name: Both ends, the sender first.
        size: Bytes of frames in one call.
        bits_per_second: Its stated rate; ``None`` where the network is not known any more.
    """

    name: str
    size: int
    bits_per_second: int | None


def links_of(record: Record) -> tuple[LinkLoad, ...]:
    """All directions of links that a rank is at, in the order of their senders; none outside an emulated network.

    Where the network cannot be read again, its file being gone, ranks and the names of interfaces have to do, and only
    what ranks send is listed: who receives it is not known.
    """
    if not record.link_bytes:
        return ()
    network = _network(record.network)
    if network is None:
        return tuple(
            LinkLoad(f"{rank} {link}", counts.get("sent", 0), None)
            for rank, links in enumerate(record.link_bytes)
            for link, counts in links.items()
        )
    return _named(record, network)


def _named(record: Record, network: Network) -> tuple[LinkLoad, ...]:
    rank_of = {host: rank for rank, host in enumerate(network.hosts)}
    counted = dict(enumerate(record.link_bytes or ()))
    found: list[tuple[int, LinkLoad]] = []
    for index, link in enumerate(network.links):
        for sender, receiver in (link.ends, link.ends[::-1]):
            # Either end has counted it; a switch is no rank.
            at_sender, at_receiver = (
                counted.get(rank_of.get(node, -1), {}).get(f"link{index}") for node in (sender, receiver)
            )
            size = (at_sender or {}).get("sent", (at_receiver or {}).get("received"))
            if size is not None:
                rate = link.rate_from(sender).bits_per_second
                place = network.nodes.index(sender)
                found.append((place, LinkLoad(f"{sender} → {receiver}", size, rate)))
    found.sort(key=lambda entry: (entry[0], [int(n) for n in re.findall(r"\d+", entry[1].name)]))
    return tuple(link for _, link in found)


def busiest_seconds(record: Record) -> float | None:
    """How long the busiest direction of a link needs at its stated rate for what it carried in a call."""
    times = [8 * link.size / link.bits_per_second for link in links_of(record) if link.bits_per_second]
    return max(times, default=None)


@lru_cache(maxsize=64)
def _network(text: str) -> Network | None:
    try:
        return load_network(text)
    except ConfigurationError:
        return None
