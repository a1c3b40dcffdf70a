"""What a simulation is given of the emulated networks, effect by effect."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.planning.test_simulate import FAST, Q_BYTES, bytes_a_second, even
from tokenring_xdit.lab.effects import LabEffects
from tokenring_xdit.lab.segments import segment
from tokenring_xdit.planning import Inside, Machine, Problem, run, simulate, ulysses
from tokenring_xdit.planning.simulate import run_steps
from tokenring_xdit.planning.steps import Message, Posting, Work
from tokenring_xdit.schedule import Activity, build
from tokenring_xdit.topology import Counts, load_topology


def test_ranks_that_take_turns_take_twice_the_time() -> None:
    network = load_topology("mesh:4:100mbit")
    half = run("ulysses", ulysses(4, Inside.GATHERED, even(4), in_order=False), network, Machine(math.inf))
    turns = LabEffects(takes_turns=True)
    slow = run("ulysses", ulysses(4, Inside.GATHERED, even(4), in_order=False), network, FAST, turns)
    assert slow.makespan == pytest.approx(2 * half.makespan)
    assert slow.sent == half.sent
    # Where a port is shared by all, others use the direction that a pair leaves idle.
    star = load_topology("star:4:100mbit")
    both = run("ulysses", ulysses(4, Inside.GATHERED, even(4), in_order=False), star, FAST)
    taking_turns = run("ulysses", ulysses(4, Inside.GATHERED, even(4), in_order=False), star, FAST, turns)
    assert both.makespan < taking_turns.makespan < 2 * both.makespan


@pytest.mark.parametrize(("asked", "missed"), [(0.5, 0.25), (0.75, 0.375), (1.5, 0.4)])
def test_what_links_ask_of_shared_cores_computing_ranks_miss(asked: float, missed: float) -> None:
    """4 ranks' bytes, or their segments on two links each, ask for a part of two cores, and get two fifths at most."""
    network, problem, rate = load_topology("star:4:100mbit"), even(4), 1e6
    sent = 4 * bytes_a_second(network)  # a second, of all ranks together
    size = segment(network, network.links[0], "h0")
    by_byte = LabEffects(transfer_work=asked / sent)
    by_segment = LabEffects(segment_work=asked * size / (2 * sent))
    undisturbed = simulate(build("direct_kv", 4), network, problem, Machine(rate, cores=2)).makespan
    travel = 3 * 2 * Q_BYTES / bytes_a_second(network)  # in which so much of what could be computed is not
    for effects in (by_byte, by_segment):
        found = simulate(build("direct_kv", 4), network, problem, Machine(rate, cores=2), effects)
        assert found.makespan == pytest.approx(undisturbed + travel * missed)


@pytest.mark.parametrize(("unevenness", "first_ends"), [(0.0, 2), (0.25, 1.75), (0.9, 1.6)])
def test_what_begins_first_may_get_more_of_a_link(unevenness: float, first_ends: float) -> None:
    """Two equal messages leave one port: both after twice the time of one alone, or at rates of 4 to 3, or 5 to 3."""
    network = load_topology("star:3:100mbit")
    first, second = (Message(0, target, "q", 1_000_000, "a block") for target in (1, 2))
    programs = [
        [Posting((), (), (first, second), 0.0)],
        [Posting((), (first,), (), 0.0), Work(Activity.WAIT, (first,), 0.0, "the end")],
        [Posting((), (second,), (), 0.0), Work(Activity.WAIT, (second,), 0.0, "the end")],
    ]
    found = run_steps("by hand", programs, network, FAST, LabEffects(unevenness=unevenness))
    alone = 1_000_000 / bytes_a_second(network)
    ends = {span.peer: span.end for span in found.timeline.spans if span.activity is Activity.SEND}
    assert ends[1] == pytest.approx(alone * first_ends)
    assert ends[2] == pytest.approx(alone * 2)


def test_a_link_catches_up_after_a_pause() -> None:
    """A message, another right behind it, and one after a pause of its own length: the first and last are shorter."""
    network, size, catch_up = load_topology("ring:2:100mbit"), 200_000, 1e-3
    alone = size / bytes_a_second(network)
    at_once = catch_up + 8 * segment(network, network.links[0], "h0") / network.links[0].rate.bits_per_second
    messages = tuple(Message(0, 1, "q", size, "a block") for _ in range(3))
    first, second, third = messages
    pause = Work(Activity.WAIT, (second,), alone, "a pause")
    programs = [
        [Posting((), (), (first, second), 0.0), pause, Posting((), (), (third,), 0.0)],
        [Posting((), messages, (), 0.0), Work(Activity.WAIT, messages, 0.0, "the end")],
    ]
    found = run_steps("by hand", programs, network, FAST, LabEffects(catch_up=catch_up))
    took = [span.end - span.start for span in found.timeline.spans if span.activity is Activity.SEND]
    assert took == pytest.approx([alone - at_once, alone, alone - at_once])
    assert sum(found.link_bytes.values()) == 3 * size
    assert found.floor == pytest.approx(3 * alone - 2 * at_once)
    probed = replace(network, counts=Counts.PAYLOAD)  # may be real links
    found = run_steps("by hand", programs, probed, FAST, LabEffects(catch_up=catch_up))
    took = [span.end - span.start for span in found.timeline.spans if span.activity is Activity.SEND]
    assert took == pytest.approx([size / bytes_a_second(probed)] * 3)


def test_ranks_that_begin_apart_meet_at_the_ports_of_a_star() -> None:
    """In step, each sends to another at any time; otherwise two sometimes send to one, and a port is idle."""
    network, problem = load_topology("star:8:100mbit"), Problem.even(8, 512, 8, 16)
    together = simulate(build("heads:peers=1", 8), network, problem, FAST).makespan
    apart = simulate(build("heads:peers=1", 8), network, problem, FAST, LabEffects(skew=together / 50)).makespan
    assert apart > 1.05 * together
