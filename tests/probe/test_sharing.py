from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.flows import rates_together
from tokenring_xdit.probe.sharing import fair_shares
from tokenring_xdit.topology import Link, Network, Rate, load_topology, parse_network

NETWORKS = st.sampled_from(
    ["mesh:4:100mbit", "star:5:100mbit", "ring:6:50mbit", "two-level:2x3:100mbit:70mbit", "dgx-1", "4xa10*2@ib-hdr"]
).map(load_topology)


@given(NETWORKS, st.data())
def test_every_transfer_has_a_full_link_on_which_no_other_is_faster(network: Network, data: st.DataObject) -> None:
    """Which is so of the max-min fair rates, and of no others."""
    pairs = [(a, b) for a in network.hosts for b in network.hosts if a != b]
    transfers = data.draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=12, unique=True))
    routes = [tuple(pairwise(network.route(*transfer))) for transfer in transfers]
    limits = {way: float(network.link(*way).rate_from(way[0]).bits_per_second) for route in routes for way in route}
    rates = [share.rate for share in fair_shares(routes, limits)]
    loads = {way: sum(rate for rate, route in zip(rates, routes, strict=True) if way in route) for way in limits}
    assert all(loads[way] <= limit * (1 + 1e-6) for way, limit in limits.items())
    for rate, route in zip(rates, routes, strict=True):
        assert any(
            loads[way] >= limits[way] * (1 - 1e-6)
            and all(other <= rate * (1 + 1e-6) for other, its in zip(rates, routes, strict=True) if way in its)
            for way in route
        )


@pytest.mark.parametrize("duplex", [1.0, 0.8, 0.5])
def test_it_agrees_with_levels_found_by_trying(duplex: float) -> None:
    network = parse_network("two-level:2x2:100mbit:70mbit")
    transfers = [(0, 1), (1, 0), (0, 2), (1, 3), (2, 0), (3, 2)]
    routes = [tuple(pairwise(network.route(network.hosts[a], network.hosts[b]))) for a, b in transfers]
    capacity = {way: float(network.link(*way).rate_from(way[0]).bits_per_second) for route in routes for way in route}
    shares = fair_shares(routes, capacity, duplex)
    assert [share.rate for share in shares] == pytest.approx(rates_together(network, transfers, duplex), rel=1e-6)


def test_transfers_with_the_same_limit_are_known_by_it() -> None:
    fast, slow = Rate.parse("100mbit"), Rate.parse("30mbit")
    links = tuple(Link(host, "s", rate, rate) for host, rate in {"a": fast, "b": fast, "c": slow}.items())
    network = Network("uneven", ("a", "b", "c"), ("s",), links)
    routes = [tuple(pairwise(network.route("a", to))) for to in "bc"]
    capacity = {way: float(network.link(*way).rate_from(way[0]).bits_per_second) for route in routes for way in route}
    to_b, to_c = fair_shares(routes, capacity)
    assert (to_b.rate, to_b.limit) == (pytest.approx(70e6), ("a", "s"))
    assert (to_c.rate, to_c.limit) == (pytest.approx(30e6), ("s", "c"))
