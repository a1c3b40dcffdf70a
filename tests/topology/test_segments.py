"""Segments: long where nobody waits for them, short where they are passed on, never less than two frames."""

from __future__ import annotations

import pytest

from tokenring_xdit.topology import load_topology
from tokenring_xdit.topology.network import FRAME
from tokenring_xdit.topology.segments import segment


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mesh:4:10mbit", 10_000),  # 8 ms
        ("mesh:4:100mbit", 65536),  # the kernel's longest
        ("star:4:100mbit", 25_000),  # 2 ms
        ("ring:3:100mbit", 65536),  # every two are neighbours
        ("ring:4:100mbit", 25_000),
        ("star:4:1mbit", 2 * FRAME),
        ("star:4:1gbit", 65536),
    ],
)
def test_a_segment_takes_so_long_at_most(name: str, size: int) -> None:
    network = load_topology(name)
    assert {segment(network, wire, wire.a) for wire in network.wires} == {size}


def test_each_wire_has_its_own() -> None:
    network = load_topology("two-level:2x2:1gbit:100mbit")
    assert sorted({segment(network, wire, wire.a) for wire in network.wires}) == [25_000, 65536]
