"""What every direction of every wire carried, from what the interfaces of an emulated network counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tokenring_xdit.bench.records import Record
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.topology import Network, load_network

__all__ = ["Link", "busiest_seconds", "links_of"]


@dataclass(frozen=True)
class Link:
    """One direction of a wire.

    Attributes:
        name: Both ends, the sender first.
        size: Bytes of frames in one call.
        bits_per_second: Its stated rate; ``None`` where the network is not known any more.
    """

    name: str
    size: int
    bits_per_second: int | None


def links_of(record: Record) -> tuple[Link, ...]:
    """All directions of wires that a rank is at, in the order of their senders; none outside an emulated network.

    Where the network cannot be read again, its file being gone, ranks and the names of interfaces have to do, and only
    what ranks send is listed: who receives it is not known.
    """
    if not record.wire_bytes:
        return ()
    network = _network(record.network)
    if network is None:
        return tuple(
            Link(f"{rank} {wire}", counts.get("sent", 0), None)
            for rank, wires in enumerate(record.wire_bytes)
            for wire, counts in wires.items()
        )
    return _named(record, network)


def _named(record: Record, network: Network) -> tuple[Link, ...]:
    rank_of = {host: rank for rank, host in enumerate(network.hosts)}
    counted = dict(enumerate(record.wire_bytes or ()))
    found: list[tuple[int, Link]] = []
    for index, wire in enumerate(network.wires):
        for sender, receiver in (wire.ends, wire.ends[::-1]):
            # Either end has counted it; a switch is no rank.
            at_sender, at_receiver = (
                counted.get(rank_of.get(node, -1), {}).get(f"wire{index}") for node in (sender, receiver)
            )
            size = (at_sender or {}).get("sent", (at_receiver or {}).get("received"))
            if size is not None:
                rate = wire.rate_from(sender).bits_per_second
                place = network.nodes.index(sender)
                found.append((place, Link(f"{sender} → {receiver}", size, rate)))
    found.sort(key=lambda entry: (entry[0], [int(n) for n in re.findall(r"\d+", entry[1].name)]))
    return tuple(link for _, link in found)


def busiest_seconds(record: Record) -> float | None:
    """How long the busiest direction of a wire needs at its stated rate for what it carried in a call."""
    times = [8 * link.size / link.bits_per_second for link in links_of(record) if link.bits_per_second]
    return max(times, default=None)


@lru_cache(maxsize=64)
def _network(text: str) -> Network | None:
    try:
        return load_network(text)
    except ConfigurationError:
        return None
