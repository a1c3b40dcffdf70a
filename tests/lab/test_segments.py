"""Segments: long where nobody waits for them, short where they are passed on, never less than two frames."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

from tokenring_xdit.lab.segments import segment
from tokenring_xdit.topology import load_topology
from tokenring_xdit.topology.links import FRAME


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
    assert {segment(network, link, link.a) for link in network.links} == {size}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("100mbit:40mbit", 10_000),  # 2 ms on the slower link
        ("1gbit:100mbit", 62_500),  # 0.5 ms on the first
        ("100mbit:10mbit", 6_250),
        ("10mbit:1gbit", 2 * FRAME),
    ],
)
def test_what_is_passed_on_takes_2_ms_on_any_link_or_half_a_ms_on_the_first(name: str, size: int) -> None:
    network = load_topology(f"two-level:2x2:{name}")
    assert {segment(network, link, end) for link in network.links for end in link.ends} == {size}


@pytest.mark.parametrize("name", ["ring:5:20mbit", "two-level:3x2:100mbit:1gbit", "dgx-1"])
def test_no_link_cuts_what_the_one_before_it_carried(name: str) -> None:
    network = load_topology(name)
    for a, b in permutations(network.hosts, 2):
        sizes = [segment(network, network.link(*ends), ends[0]) for ends in pairwise(network.route(a, b))]
        assert sizes == sorted(sizes)
