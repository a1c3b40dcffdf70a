"""Simulations against closed formulas, and against bounds that nothing can beat."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.planning import Inside, Launches, Machine, Problem, gathered, run, simulate, ulysses
from tokenring_xdit.schedule import Activity, Attend, Exchange, Kind, Merge, VerifiedSchedule, build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.topology import Counts, Link, Network, Rate, load_topology

FAST = Machine(attend_rate=math.inf)
"""A machine whose time is all on the links."""

NAMES = [
    "ring", "token_ring", "bidirectional", "bidirectional_q", "direct", "direct_kv", "mesh", "direct:chunks=3",
    "direct_kv:chunks=2", "ring:chunks=2", "token_ring:chunks=2", "hierarchical:nodes=1",
]  # fmt: skip


def bytes_a_second(network: Network) -> float:
    """Payload that a link of a uniform network carries."""
    return network.links[0].rate.bits_per_second / 8 * network.payload_share


def even(ranks: int) -> Problem:
    return Problem.even(ranks, 64 * ranks, 4, 16)


Q_BYTES = 64 * 4 * 16 * 4
LSE_BYTES = 64 * 4 * 4


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_a_ring_bound_by_its_links_takes_as_long_as_these(ranks: int) -> None:
    network = load_topology(f"ring:{ranks}:100mbit")
    found = simulate(build("ring", ranks), network, even(ranks), FAST)
    assert found.makespan == pytest.approx((ranks - 1) * 2 * Q_BYTES / bytes_a_second(network))
    assert found.exposed == pytest.approx(found.makespan)


def test_a_ring_bound_by_its_kernel_takes_as_long_as_that() -> None:
    network, problem = load_topology("ring:4:1tbit"), even(4)
    cost = Machine(attend_rate=1e9)
    one = 4 * 64 * 64 * 4 * 16 / 1e9
    found = simulate(build("ring", 4), network, problem, cost)
    assert found.makespan == pytest.approx(4 * one)
    assert found.exposed == pytest.approx(0, abs=1e-9)


def test_what_everything_takes_however_short_adds_up() -> None:
    """Two ranks on links that take no time: two attentions, a merge, and what each strategy posts."""
    network, problem = load_topology("mesh:2:1tbit"), even(2)
    cost = Machine(math.inf, attend_overhead=1.0, fold_overhead=0.1, message_overhead=0.01, call_overhead=5.0)
    whole = run("ring", gathered(problem), network, cost)
    assert whole.makespan == pytest.approx(0.02 + 2.0 + 0.1, abs=1e-4)
    # Queries, attention at home and of the guest, whose output is packed, sent and merged.
    found = simulate(build("token_ring", 2), network, problem, cost)
    assert found.makespan == pytest.approx(5.0 + 0.02 + 2.0 + 0.1 + 0.02 + 0.1, abs=1e-4)
    assert found.launch == 0.0


def test_a_host_runs_ahead_of_its_device_or_behind() -> None:
    """It launches two attentions, a packing and a merge, and posts queries and an output, both ways."""
    network, problem = load_topology("mesh:2:1tbit"), even(2)
    host = Launches(attend=1.0, fold=0.1, message=0.01, collective=0.03, call=5.0)
    launched, gathering = 5.0 + 2.0 + 2 * 0.1 + 4 * 0.01, 0.03 + 2.0 + 0.1
    for seconds in (0.2, 20.0):
        cost = Machine(math.inf, attend_overhead=seconds, in_order=True, launches=host)
        found = simulate(build("token_ring", 2), network, problem, cost)
        assert found.launch == pytest.approx(launched)
        assert found.makespan == pytest.approx(max(launched, 2 * seconds), abs=1e-4)
        whole = run("ring", gathered(problem), network, cost)
        assert whole.makespan == pytest.approx(max(gathering, 2 * seconds), abs=1e-4)
        replayed = simulate(build("token_ring", 2), network, problem, cost.captured())
        assert replayed.makespan == pytest.approx(2 * seconds, abs=1e-4)


@pytest.mark.parametrize(("name", "launched"), [("direct_kv", 2), ("token_ring", 3), ("heads", 2)])
def test_a_collective_is_launched_for_each_tensor(name: str, launched: int) -> None:
    """Keys and values are two, as are an output and its log-sum-exp; queries are one."""
    problem = Problem.even(4, 64, 4, 8)
    programs = lower(replace(build(name, 4, heads=4).schedule, wide=4), problem, in_order=True)
    host = Machine(math.inf, in_order=True, launches=Launches(collective=1.0))
    assert run(name, programs, load_topology("mesh:4:1tbit"), host).launch == launched


def test_token_ring_waits_for_its_queries_and_one_return() -> None:
    """On a mesh of 4: three hops of Q, and then the last O over a link of its own."""
    network = load_topology("mesh:4:100mbit")
    found = simulate(build("token_ring", 4), network, even(4), FAST)
    last_return = (Q_BYTES + LSE_BYTES) / bytes_a_second(network)
    assert found.makespan == pytest.approx(3 * Q_BYTES / bytes_a_second(network) + last_return)


def test_keys_to_everybody_share_a_port() -> None:
    network = load_topology("star:5:100mbit")
    found = simulate(build("direct_kv", 5), network, even(5), FAST)
    assert found.makespan == pytest.approx(4 * 2 * Q_BYTES / bytes_a_second(network))
    assert list(found.link_busy.values()) == pytest.approx([1.0] * 10)


def test_on_a_mesh_each_has_a_link_of_its_own() -> None:
    network = load_topology("mesh:5:100mbit")
    found = simulate(build("direct_kv", 5), network, even(5), FAST)
    assert found.makespan == pytest.approx(2 * Q_BYTES / bytes_a_second(network))


def test_the_slower_direction_and_the_delay_of_a_link_count() -> None:
    slow, fast = Rate.parse("10mbit"), Rate.parse("100mbit")
    network = Network("pair", ("a", "b"), (), (Link("a", "b", fast, slow, delay=0.5),), counts=Counts.PAYLOAD)
    found = simulate(build("ring", 2), network, even(2), FAST)
    assert found.makespan == pytest.approx(2 * Q_BYTES * 8 / 10e6 + 0.5)


def test_a_message_takes_what_it_would_alone_at_least() -> None:
    """A link that is faster than any one message fills; keys go with their values."""
    rate, alone = Rate.parse("100mbit"), Rate.parse("20mbit")
    link = Link("a", "b", rate, rate, messages=((Q_BYTES, Rate.parse("10mbit")), (2 * Q_BYTES, alone)))
    network = Network("pair", ("a", "b"), (), (link,), counts=Counts.PAYLOAD)
    found = simulate(build("ring", 2), network, even(2), FAST)
    assert found.makespan == pytest.approx(2 * Q_BYTES * 8 / 20e6)
    shorter = simulate(build("ring:chunks=2", 2), network, even(2), FAST)  # two, at half the rate
    assert shorter.makespan == pytest.approx(2 * Q_BYTES * 8 / 10e6)
    star = Network("star", ("a", "b", "c"), ("s",), tuple(replace(link, a=host, b="s") for host in "abc"))
    both = simulate(build("direct_kv", 3), replace(star, counts=Counts.PAYLOAD), even(3), FAST)
    assert both.makespan == pytest.approx(2 * Q_BYTES * 8 / 20e6)  # of two ranks at once, over one port


@pytest.mark.parametrize(("size", "microseconds"), [(8 << 20, 50), (32 << 20, 141), (128 << 20, 475), (1 << 30, 2988)])
def test_messages_between_two_h100_take_what_was_published(size: int, microseconds: float) -> None:
    """Both ways at once, as in github.com/meta-pytorch/torchcomms issue 2159: keys of one rank for the other."""
    tokens = size // (2 * 128 * 2)  # keys and values of one head of 128 in bf16
    problem = Problem((1, 1), (tokens, tokens), 1, 1, 128, 1, 2, 2)
    network = load_topology("hgx-h100")
    machine = replace(Machine.of_gpus(1e18).captured(), attend_overhead=0.0, wave_overhead=0.0, fold_overhead=0.0)
    found = simulate(build("ring", 2), network, problem, machine)
    assert found.makespan == pytest.approx(microseconds * 1e-6, rel=0.02)


def test_what_gathers_first_hides_nothing() -> None:
    network = load_topology("ring:4:100mbit")
    cost = Machine(attend_rate=1e9)
    one = 4 * 64 * 64 * 4 * 16 / 1e9
    found = run("ring", gathered(even(4)), network, cost)
    assert found.makespan == pytest.approx(3 * 2 * Q_BYTES / bytes_a_second(network) + 4 * one)


def test_ulysses_moves_a_share_of_everything() -> None:
    network = load_topology("mesh:4:100mbit")
    found = run("ulysses", ulysses(4, Inside.GATHERED, even(4), in_order=False), network, FAST)
    assert found.makespan == pytest.approx(4 * Q_BYTES / 4 / bytes_a_second(network))
    assert found.sent == (3 * Q_BYTES,) * 4


def test_only_calls_of_a_schedule_pay_for_one() -> None:
    """Of nothing but Ulysses or Ring xfuser makes no call of ours."""
    network, ours = load_topology("mesh:4:100mbit"), replace(FAST, call_overhead=1.0)
    for programs in (gathered(even(4)), *(ulysses(n, Inside.GATHERED, even(4), in_order=False) for n in (2, 4))):
        assert run("xfuser's", programs, network, ours).makespan < 1
    assert run("hybrid", ulysses(2, build("ring", 2).schedule, even(4), in_order=False), network, ours).makespan > 1


def test_xfuser_s_ring_repeats_keys_that_heads_share() -> None:
    network, grouped = load_topology("mesh:4:100mbit"), replace(even(4), kv_heads=1)
    assert run("ring", gathered(grouped), network, FAST).sent == (3 * 2 * Q_BYTES,) * 4
    assert gathered(grouped)[0].peak == gathered(even(4))[0].peak
    inside = [ulysses(1, Inside.GATHERED, replace(even(1), kv_heads=heads), in_order=False)[0] for heads in (1, 4)]
    assert inside[0].peak - inside[1].peak == 2 * Q_BYTES - 3 * 2 * Q_BYTES // 4  # repeated, and less to exchange
    ours = simulate(build("ring", 4), network, grouped, FAST)
    assert ours.sent == (3 * 2 * Q_BYTES // 4,) * 4


@pytest.mark.parametrize("inside", [Inside.GATHERED, build("ring", 2).schedule])
def test_ulysses_around_a_ring_sends_what_both_send(inside: object) -> None:
    programs = ulysses(2, inside, even(4), in_order=False)  # type: ignore[arg-type]
    found = run("hybrid", programs, load_topology("mesh:4:100mbit"), FAST)
    spread = 4 * Q_BYTES // 2  # to the other rank that shares heads, and back
    assert found.sent == (spread + 2 * Q_BYTES,) * 4  # twice the tokens, half the heads, to the next group


def test_ranks_that_share_cores_take_turns() -> None:
    network, problem = load_topology("mesh:4:1tbit"), even(4)
    alone = simulate(build("direct_kv", 4), network, problem, Machine(attend_rate=1e9))
    shared = simulate(build("direct_kv", 4), network, problem, Machine(attend_rate=1e9, cores=2))
    assert shared.makespan == pytest.approx(2 * alone.makespan, rel=1e-3)


def test_xfuser_s_gather_is_over_when_all_is_sent() -> None:
    """The rank before the slow link has all keys early; it attends when it has passed them on."""
    fast, slow = (2 * (Rate(rate),) for rate in (10**8, 10**7))
    links = [Link("h0", "h1", *fast), Link("h1", "h2", *slow), Link("h2", "h0", *fast)]
    network, problem = Network("slow", ("h0", "h1", "h2"), (), tuple(links)), even(3)
    found = run("gathered", gathered(problem), network, FAST)
    begins = min(s.start for s in found.timeline.spans if s.rank == 1 and s.activity is Activity.ATTEND)
    a_second = slow[0].bits_per_second / 8 * network.payload_share
    assert begins == pytest.approx(2 * 2 * Q_BYTES / a_second)


def test_channels_in_order_wait_for_what_stands_before() -> None:
    """Where channels are in order an exchange begins when the one before it on the channel is over."""
    network, problem = load_topology("mesh:4:100mbit"), even(4)
    free, ordered = (
        simulate(build("direct_kv:chunks=4", 4), network, problem, Machine(math.inf, in_order=order))
        for order in (False, True)
    )
    assert ordered.makespan == pytest.approx(free.makespan)  # the same bytes on the same links
    starts = sorted({s.start for s in ordered.timeline.spans if s.rank == 0 and s.activity is Activity.SEND})
    assert starts == pytest.approx([n * 2 * Q_BYTES / 4 / bytes_a_second(network) for n in range(4)])


def test_a_rank_computes_while_its_exchanges_stand_in_line() -> None:
    network, problem = load_topology("mesh:4:100mbit"), even(4)
    found = simulate(build("direct_kv:chunks=4", 4), network, problem, Machine(attend_rate=1e9, in_order=True))
    assert min(s.start for s in found.timeline.spans if s.rank == 0 and s.activity is Activity.ATTEND) == 0.0


def test_an_exchange_on_a_channel_in_order_is_over_as_a_whole() -> None:
    """Keys of the near rank have come, and nothing is done with them until those of the far one have."""
    fast, slow = (2 * (Rate(rate),) for rate in (10**8, 10**7))
    links = (Link("h0", "h1", *slow), Link("h1", "h2", *slow), Link("h2", "h0", *fast))
    network, problem = Network("slow", ("h0", "h1", "h2"), (), links), even(3)

    def second_attention(cost: Machine) -> float:
        spans = simulate(build("direct_kv", 3), network, problem, cost).timeline.spans
        return sorted(s.start for s in spans if s.rank == 0 and s.activity is Activity.ATTEND)[1]

    keys = 2 * Q_BYTES * 8 / network.payload_share
    assert second_attention(FAST) == pytest.approx(keys / 1e8)
    assert second_attention(replace(FAST, in_order=True)) == pytest.approx(keys / 1e7)


def test_too_few_hosts_and_another_number_of_ranks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"5 ranks do not fit into network 'mesh:4:1gbit': .* there are 4"):
        simulate(build("ring", 5), load_topology("mesh:4:1gbit"), even(5), FAST)
    with pytest.raises(ConfigurationError, match="for 3 ranks, the problem for 4"):
        simulate(build("ring", 3), load_topology("mesh:4:1gbit"), even(4), FAST)


@st.composite
def trees(draw: st.DrawFn, ranks: int) -> Network:
    """Hosts at the leaves of a random tree of switches, with rates of their own each way."""
    rates = st.sampled_from(["10mbit", "50mbit", "200mbit"]).map(Rate.parse)
    hosts = tuple(f"h{rank}" for rank in range(ranks))
    switches = tuple(f"s{index}" for index in range(draw(st.integers(1, 3))))
    links = [Link(host, draw(st.sampled_from(switches)), draw(rates), draw(rates)) for host in hosts]
    links += [
        Link(switch, draw(st.sampled_from(switches[:index])), draw(rates), draw(rates))
        for index, switch in enumerate(switches[1:], 1)
    ]
    return Network("tree", hosts, switches, tuple(links), hosts_forward=False)


@st.composite
def calls(draw: st.DrawFn) -> tuple[VerifiedSchedule, Network, Problem]:
    ranks = draw(st.integers(2, 6))
    heads = draw(st.sampled_from([1, 3, 4]))
    schedule = build(draw(st.sampled_from(NAMES)), ranks, heads=heads)
    lengths = st.lists(st.integers(0, 40), min_size=ranks, max_size=ranks).map(tuple)
    network = draw(
        st.one_of(
            trees(ranks),
            st.sampled_from([f"{form}:{ranks}:100mbit" for form in ("mesh", "star", "ring")]).map(load_topology),
        )
    )
    return schedule, network, Problem(draw(lengths), draw(lengths), heads, heads, 8)


@settings(max_examples=60, deadline=None)
@given(calls(), st.booleans())
def test_no_simulation_beats_its_bounds_and_everything_happens_once(
    call: tuple[VerifiedSchedule, Network, Problem], in_order: bool
) -> None:
    verified, network, problem = call
    cost = Machine(attend_rate=1e8, attend_overhead=1e-6, fold_rate=1e9, message_overhead=1e-6, in_order=in_order)
    found = simulate(verified, network, problem, cost)
    plan = verified.schedule
    sent = defaultdict(int)
    loads: dict[tuple[str, str], float] = defaultdict(float)
    for rank, program in enumerate(plan.programs):
        work, count = 0.0, {Attend: 0, Merge: 0}
        for action in program:
            if isinstance(action, Attend):
                (a, b), (c, d) = (
                    piece.bounds(lengths[owner])
                    for piece, lengths, owner in (
                        (action.q.tokens, problem.q_lengths, action.q.owner),
                        (action.kv.tokens, problem.kv_lengths, action.kv.owner),
                    )
                )
                (e, f), (g, h) = action.q.heads.bounds(problem.heads), action.kv.heads.bounds(problem.heads)
                met = (b - a) * (d - c) * min(f - e, h - g)
                work += 4.0 * met * 8 / 1e8
                count[Attend] += met > 0  # nothing is done with empty blocks
            if isinstance(action, Merge):
                count[Merge] += problem.size(action.partial) > 0
            if isinstance(action, Exchange):
                for t in action.sends:
                    lengths = problem.kv_lengths if t.block.kind is Kind.KV else problem.q_lengths
                    first, last = t.block.tokens.bounds(lengths[t.block.owner])
                    low, high = t.block.heads.bounds(problem.heads)
                    rows = (last - first) * (high - low)
                    size = rows * (
                        8 * 4 + 4 if t.block.kind is Kind.O else 8 * 4 * (2 if t.block.kind is Kind.KV else 1)
                    )
                    sent[rank] += size
                    nodes = network.route(network.hosts[rank], network.hosts[t.peer])
                    for ends in itertools.pairwise(nodes):
                        loads[ends] += size
        assert found.makespan >= work - 1e-9
        own = sorted((s.start, s.end) for s in found.timeline.spans if s.rank == rank and not s.activity.transfers)
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(own))
        for activity, kind in ((Activity.ATTEND, Attend), (Activity.MERGE, Merge)):
            spans = [s for s in found.timeline.spans if (s.rank, s.activity) == (rank, activity)]
            assert len(spans) == count[kind]
    assert found.sent == tuple(sent[rank] for rank in range(plan.world_size))
    for (a, b), load in loads.items():
        rate = network.link(a, b).rate_from(a).bits_per_second / 8 * network.payload_share
        assert found.makespan >= load / rate - 1e-9
        assert found.link_bytes.get((a, b), 0.0) == pytest.approx(load, abs=1e-3)
    assert found.floor <= found.makespan + 1e-9
    again = simulate(verified, network, problem, cost)
    assert (again, again.timeline) == (found, found.timeline)
