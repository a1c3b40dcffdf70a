from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.flows import rates_together
from tokenring_xdit.probe.figures import Figures, Measured, ProbeTrial, suspected_trials, trials_for
from tokenring_xdit.probe.infer import MOST_NOISE, Inference, infer, spoken
from tokenring_xdit.probe.shapes import NetworkShape
from tokenring_xdit.topology import Counts, Link, Network, Rate, load_topology, parse_network

FEW = settings(max_examples=25)


def figures_of(
    network: Network,
    *,
    noise: float = 0.0,
    seed: int = 0,
    duplex: float = 1.0,
    uneven: float = 0.0,
    quick: bool = False,
) -> Figures:
    """What a probe of a network would find.

    Args:
        network: The network.
        noise: Share by which each rate may be off.
        seed: Of what is random.
        duplex: See :func:`rates_together`.
        uneven: Share of its rate that a transfer takes from another with which it shares a link evenly.
        quick: What ``--quick`` measures.
    """
    generator = random.Random(seed)
    ranks = len(network.hosts)
    found = []
    for trial in (*trials_for(ranks, quick=quick), *suspected_trials(ranks)):
        rates = rates_together(network, trial.transfers, duplex)
        if uneven:
            rates = unevenly(network, trial, rates, uneven)
        rates = [rate * generator.uniform(1 - noise, 1 + noise) for rate in rates]
        found.append(Measured(trial, tuple(rates), noise))
    return Figures(ranks, tuple(found))


def unevenly(network: Network, trial: ProbeTrial, rates: list[float], share: float) -> list[float]:
    """The rates of transfers of which one takes more than its part of a full link, as short TCP transfers do."""
    routes = [set(pairwise(network.route(network.hosts[a], network.hosts[b]))) for a, b in trial.transfers]
    loads = {
        way: sum(rate for rate, route in zip(rates, routes, strict=True) if way in route) for r in routes for way in r
    }
    full = {way for way, load in loads.items() if load > 0.999 * network.link(*way).rate_from(way[0]).bits_per_second}
    for one, other in combinations(range(len(rates)), 2):
        if (
            (routes[one] & full) == (routes[other] & full)
            and len(routes[one] & full) == 1
            and rates[one] == rates[other]
        ):
            return [rate * {one: 1 + share, other: 1 - share}.get(index, 1.0) for index, rate in enumerate(rates)]
    return rates


def shuffled(network: Network, order: Sequence[int]) -> Network:
    """The same network with its hosts at other ranks."""
    return replace(network, hosts=tuple(network.hosts[index] for index in order))


def agrees(found: Inference, network: Network, tolerance: float = 0.1) -> None:
    """Every pair of ranks has the rate that it has in the network, and so have many together."""
    assert found.network is not None, found.words
    assert found.network.counts is Counts.PAYLOAD
    for trial in trials_for(len(network.hosts)):
        stated, said = (rates_together(net, trial.transfers) for net in (network, found.network))
        assert said == pytest.approx(stated, rel=tolerance), (trial, found.words)


RATES = st.integers(10, 400).map(lambda mbit: f"{mbit}mbit")
FLAT = st.tuples(st.sampled_from(["mesh", "star", "ring"]), st.integers(4, 7), RATES).map(
    lambda t: ":".join(map(str, t))
)


@FEW
@given(FLAT, st.data())
def test_meshes_stars_and_rings_are_found_in_any_order_of_hosts(form: str, data: st.DataObject) -> None:
    plain = parse_network(form)
    network = shuffled(plain, data.draw(st.permutations(range(len(plain.hosts)))))
    found = infer(figures_of(network, noise=0.04, seed=data.draw(st.integers(0, 99))))
    assert (
        found.shape
        is {"mesh": NetworkShape.MESH, "star": NetworkShape.STAR, "ring": NetworkShape.RING}[form.partition(":")[0]]
    )
    assert found.network is not None
    stated = plain.links[0].rate.bits_per_second
    assert len(found.network.links) == len(plain.links)
    for link in found.network.links:
        assert link.rate.bits_per_second == pytest.approx(stated, rel=0.1)
        assert link.back.bits_per_second == pytest.approx(stated, rel=0.1)


@pytest.mark.e2e
@FEW
@given(st.sampled_from([(2, 2), (2, 3), (3, 2), (2, 4)]), st.integers(15, 60), st.data())
def test_groups_are_found_in_any_order_of_hosts_where_they_are_faster(
    counts: tuple[int, int], tenths: int, data: st.DataObject
) -> None:
    groups, each = counts
    plain = parse_network(f"two-level:{groups}x{each}:{tenths * 10}mbit:100mbit")
    order = data.draw(st.permutations(range(groups * each)))
    found = infer(figures_of(shuffled(plain, order), noise=0.04, seed=data.draw(st.integers(0, 99))))
    assert found.shape is NetworkShape.TWO_LEVEL
    assert found.network is not None
    members = {
        frozenset(int(host[1:]) for host in found.network.hosts if switch in found.network.neighbours(host))
        for switch in found.network.switches
        if switch != "core"
    }
    assert members == {frozenset(rank for rank, host in enumerate(order) if host // each == g) for g in range(groups)}
    for link in found.network.links:
        stated = 100e6 if "core" in link.ends else tenths * 10e6
        assert link.rate.bits_per_second == pytest.approx(stated, rel=0.1)


@pytest.mark.parametrize("form", ["two-level:2x2:100mbit:100mbit", "two-level:2x4:100mbit:250mbit"])
def test_groups_of_consecutive_ranks_are_found_by_what_they_share(form: str) -> None:
    network = parse_network(form)
    found = infer(figures_of(network, noise=0.03))
    assert found.shape is NetworkShape.TWO_LEVEL
    agrees(found, network)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("hgx-h100", NetworkShape.STAR),
        ("4xa10", NetworkShape.STAR),
        ("8xmi300x", NetworkShape.MESH),
        ("nvlink-bridge", NetworkShape.PAIR),
        ("nvlink-bridge*2@ib-ndr", NetworkShape.TWO_LEVEL),
        ("4xa10*2@ethernet-100g", NetworkShape.TWO_LEVEL),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_machines_are_found_by_their_figures(name: str, shape: NetworkShape, quick: bool) -> None:
    network = load_topology(name)
    found = infer(figures_of(network, noise=0.02, quick=quick))
    assert found.shape is shape
    agrees(found, network)


@pytest.mark.parametrize("form", ["star:4:100mbit", "ring:4:100mbit", "two-level:2x2:200mbit:100mbit"])
def test_transfers_that_share_a_link_unevenly_do_not_mislead(form: str) -> None:
    network = parse_network(form)
    agrees(infer(figures_of(network, noise=0.03, uneven=0.7)), network)


def test_ports_of_different_rates_are_kept_apart() -> None:
    rates = [Rate.parse(text) for text in ("100mbit", "100mbit", "40mbit", "250mbit")]
    links = tuple(Link(f"h{i}", "s", rate, rate.scaled(0.5)) for i, rate in enumerate(rates))
    network = Network("uneven", ("h0", "h1", "h2", "h3"), ("s",), links)
    found = infer(figures_of(network, noise=0.02))
    assert found.shape is NetworkShape.STAR
    agrees(found, network)


def test_one_direction_at_a_time_becomes_two_slow_ones() -> None:
    network = parse_network("star:4:100mbit")
    found = infer(figures_of(network, noise=0.02, duplex=0.5))
    assert found.shape is NetworkShape.STAR
    assert found.network is not None
    for link in found.network.links:
        assert link.rate.bits_per_second == pytest.approx(50e6, rel=0.1)
    assert "both directions of a link at once carry 50% of what they carry alone" in found.notes[0]


def test_delays_are_shared_out_among_the_links_of_a_way() -> None:
    network = parse_network("two-level:2x2:200mbit:100mbit")
    inside = {(0, 1), (2, 3)}
    latencies = tuple((pair, 10e-6 if pair in inside else 40e-6) for pair in combinations(range(4), 2))
    found = infer(replace(figures_of(network), latencies=latencies))
    assert found.network is not None
    assert {"core" in link.ends: link.delay for link in found.network.links} == {False: 5e-6, True: 1e-5}


def test_no_shape_is_made_up() -> None:
    cube = infer(figures_of(load_topology("dgx-1"), noise=0.02))
    assert (cube.network, cube.shape) == (None, None)
    assert "no network that is looked for gives these figures" in cube.words
    # One memory for all, as on a loopback: however many transfers there are, they share it.
    all_share = ((trial, len(trial.transfers)) for trial in trials_for(4))
    memory = infer(Figures(4, tuple(Measured(trial, (1e9 / count,) * count) for trial, count in all_share)))
    assert memory.network is None


def test_noise_is_no_network() -> None:
    figures = figures_of(parse_network("mesh:4:100mbit"))
    noisy = replace(figures, figures=tuple(replace(figure, spread=MOST_NOISE + 0.01) for figure in figures.figures))
    found = infer(noisy)
    assert found.network is None
    assert "measurements of the same differ by 26%" in found.words


@pytest.mark.parametrize("bits", [1e3, 95.3e6, 4.5e11, 1e12])
def test_rates_are_spoken(bits: float) -> None:
    assert Rate.parse(spoken(bits)).bits_per_second == pytest.approx(bits, rel=0.01)


def test_floor_one_does_not_load_torch() -> None:
    folder = Path(__file__).parents[2] / "tokenring_xdit" / "topology"
    assert not [path.name for path in folder.glob("*.py") if "import torch" in path.read_text()]
