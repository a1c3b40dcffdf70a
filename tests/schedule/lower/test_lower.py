"""Lowered programs: proved, exact in every order of events, and what the passes are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.test_builders import requests
from tests.support.memory import at_random, error, ranks_first, transfers_first
from tests.support.schedules import names
from tokenring_xdit.schedule import (
    Action,
    Attend,
    Channel,
    Exchange,
    Mask,
    Merge,
    Schedule,
    Transfer,
    build,
    cut,
    kv_block,
    o_block,
    q_block,
    verify,
)
from tokenring_xdit.schedule.lower import lower, prove
from tokenring_xdit.schedule.lower.program import (
    RESULT,
    Collective,
    Concat,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    RankProgram,
    SlotForm,
    Step,
)
from tokenring_xdit.schedule.problem import Problem

EXACT = 1e-5


def lowered(name: str, problem: Problem, *, wide: int = 1, in_order: bool = False) -> tuple[RankProgram, ...]:
    """A schedule with the full mask."""
    schedule = replace(build(name, problem.ranks, heads=problem.kv_heads).schedule, wide=wide)
    return lower(schedule, problem, in_order=in_order)


def steps_of(program: RankProgram, *kinds: type[Step]) -> list[Step]:
    return [step for _, step in program.steps if isinstance(step, kinds)]


def counts(program: RankProgram) -> Counter[str]:
    return Counter(type(step).__name__ for _, step in program.steps)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, Problem, Mask, int, bool]:
    """A schedule, shards of any lengths with none among them, and how it is lowered."""
    name, ranks, mask, _ = draw(requests(most=8))
    kv_heads = draw(st.integers(1, 4))
    lengths = st.tuples(*[st.integers(0, 5)] * ranks)
    queries = draw(lengths)
    keys = queries if mask is Mask.CAUSAL else draw(lengths)
    group = draw(st.integers(1, 2)) if "heads" in name else 1
    problem = Problem(queries, keys, kv_heads * group, kv_heads, 4, draw(st.integers(1, 2)))
    return name, problem, mask, draw(st.sampled_from([1, 2, 3, 64])), draw(st.booleans())


@settings(max_examples=80, deadline=None)
@given(calls(), st.integers(0, 999))
def test_every_schedule_is_proved_and_exact_in_any_order_of_events(
    call: tuple[str, Problem, Mask, int, bool], seed: int
) -> None:
    name, problem, mask, wide, in_order = call
    verified = build(name, problem.ranks, mask, problem.kv_heads)
    if not verified.takes_heads(problem.heads, problem.kv_heads):
        return
    programs = lower(replace(verified.schedule, wide=wide), problem, in_order=in_order)
    prove(name, programs, problem, mask=mask, in_order=in_order)
    assert error(programs, problem, at_random(seed), mask=mask, in_order=in_order, seed=seed) <= EXACT


@pytest.mark.parametrize("choose", [ranks_first, transfers_first], ids=["late", "early"])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("wide", [1, 3, 8])
@pytest.mark.parametrize("name", names())
def test_messages_as_late_and_as_early_as_can_be(name: str, wide: int, in_order: bool, choose: object) -> None:
    problem = Problem.even(6, 40, 6, 8)
    programs = lowered(name, problem, wide=wide, in_order=in_order)
    prove(name, programs, problem, in_order=in_order)
    assert error(programs, problem, choose, in_order=in_order) <= EXACT  # type: ignore[arg-type]


# -- passes ------------------------------------------------------------------------------------------------------


def test_the_program_of_one_of_two_ranks() -> None:
    program = lowered("token_ring", Problem((3, 5), (4, 6), 4, 4, 8, 2), in_order=True)[0]
    queries, own, other, pack, outputs, merge = (step for _, step in program.steps)
    assert isinstance(queries, Post) and isinstance(pack, Pack) and isinstance(outputs, Post)
    assert isinstance(own, KernelCall) and isinstance(other, KernelCall) and isinstance(merge, MergeCall)
    assert own.targets[0].slot == RESULT and (own.q_tokens, own.kv_tokens) == (3, 4)
    (target,) = other.targets
    assert program.slots[target.slot].form is SlotForm.SUM and program.slots[target.slot].shape == (2, 4, 5, 8)
    assert (pack.source, pack.slot) == (target.slot, outputs.payloads[0].slot)
    assert program.slots[merge.partials[0].slot].shape == (2, 4, 3, 8)


def test_what_is_empty_is_left_out() -> None:
    first, second = lowered("token_ring", Problem((0, 5), (4, 0), 4, 4, 8), in_order=True)
    assert [type(step) for _, step in first.steps] == [Post, KernelCall, Pack, Post]
    assert [type(step) for _, step in second.steps] == [Post, Post, MergeCall]


def test_keys_that_many_queries_attend_are_put_together_once() -> None:
    program = lowered("heads", Problem((4,) * 4, (5, 0, 6, 7), 4, 4, 8), in_order=True)[0]
    (concat,) = steps_of(program, Concat)
    assert isinstance(concat, Concat)
    assert program.slots[concat.slot].shape == (1, 1, 13, 8)
    assert str(concat) == "KV[3] heads 1/4, KV[2] heads 1/4"  # the other one is empty
    users = [step for _, step in program.steps if isinstance(step, KernelCall) and step.keys.slot == concat.slot]
    assert len(users) == 3


@pytest.mark.parametrize(
    ("name", "calls"), [("heads", 22), ("heads:peers=2", 40), ("token_ring", 8), ("direct:chunks=4", 30)]
)
def test_calls_of_the_kernel(name: str, calls: int) -> None:
    program = lowered(name, Problem.even(8, 64, 8, 8))[3]
    assert counts(program)["KernelCall"] == calls


def test_receives_are_posted_early_where_transfers_are_independent() -> None:
    problem = Problem.even(4, 16, 2, 4)
    early, late = (lowered("token_ring", problem, in_order=in_order)[0] for in_order in (False, True))
    posts = [
        [len(step.recvs) for step in steps_of(program, Post) if isinstance(step, Post)] for program in (early, late)
    ]
    assert posts[1] == [1] * len(posts[1])
    assert posts[0][0] == 3  # its own, the next one of its channel, and the first of the other
    assert sum(posts[0]) == sum(posts[1])


@pytest.mark.parametrize(
    ("name", "kernels", "merges", "collectives"),
    [
        ("token_ring", 1, 1, [Collective.ALL_GATHER, Collective.ALL_TO_ALL]),
        ("direct", 1, 1, [Collective.ALL_GATHER, Collective.ALL_TO_ALL]),
        ("direct_kv", 1, 0, [Collective.ALL_GATHER]),
        ("ring", 1, 0, [Collective.ALL_GATHER]),
        ("heads", 1, 1, [Collective.ALL_TO_ALL]),
        ("mesh", 1, 1, []),
    ],
)
def test_the_widest_form_is_one_call_and_one_merge(
    name: str, kernels: int, merges: int, collectives: list[Collective]
) -> None:
    for in_order in (False, True):
        for program in lowered(name, Problem.even(8, 64, 8, 8), wide=8, in_order=in_order):
            assert (counts(program)["KernelCall"], counts(program)["MergeCall"]) == (kernels, merges)
            found = [step.collective for step in steps_of(program, Post) if isinstance(step, Post) and step.collective]
            assert found == collectives


def test_a_form_in_between_has_calls_of_as_many_blocks() -> None:
    for program in lowered("token_ring", Problem.even(8, 64, 2, 8), wide=3):
        kernels = [step for step in steps_of(program, KernelCall) if isinstance(step, KernelCall)]
        assert [len(kernel.targets) for kernel in kernels] == [3, 3, 2]


def test_uneven_shards_are_gathered_message_by_message() -> None:
    for program in lowered("direct", Problem((3, 4, 5), (3, 4, 5), 2, 2, 8), wide=3):
        found = [step.collective for step in steps_of(program, Post) if isinstance(step, Post) and step.collective]
        assert found == [Collective.ALL_TO_ALL]  # of queries no all-gather, of outputs shares of any size


def test_memory_of_a_ring_stays_and_that_of_all_links_grows() -> None:
    """What travels on a ring is a few blocks, whatever the ranks."""

    def peaks(name: str, ranks: tuple[int, ...]) -> list[int]:
        return [lowered(name, Problem.even(n, 128 * n, 4, 16))[0].peak for n in ranks]

    assert len(set(peaks("ring", (5, 6, 8, 12)))) == 1
    four, eight = peaks("direct", (4, 8))
    assert eight > 1.8 * four


@pytest.mark.parametrize("name", ["token_ring", "ring", "heads", "direct:chunks=2"])
@pytest.mark.parametrize("lengths", [((0, 0, 0), (3, 4, 5)), ((3, 4, 5), (0, 0, 0)), ((0, 0, 0), (0, 0, 0))])
def test_the_widest_form_of_nothing(name: str, lengths: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    problem = Problem(*lengths, 3, 3, 8)
    programs = lowered(name, problem, wide=8)
    prove(name, programs, problem, in_order=False)
    assert error(programs, problem, ranks_first) == 0.0


def of_three_ranks(programs: Callable[[int], Iterator[Action]]) -> Schedule:
    return Schedule("unlisted", 3, tuple(tuple(programs(rank)) for rank in range(3)), wide=3)


def own_keys_in_halves(rank: int) -> Iterator[Action]:
    """Own queries are attended apart from those of the others, which leaves no room for them in what is sent."""
    peers = [peer for peer in range(3) if peer != rank]
    yield Exchange(
        Channel.Q,
        tuple(Transfer(q_block(peer), peer) for peer in peers),
        tuple(Transfer(q_block(rank), peer) for peer in peers),
    )
    for half in cut(2):
        yield Attend(q_block(rank), kv_block(rank, heads=half))
    for peer in peers:
        yield Attend(q_block(peer), kv_block(rank))
    yield Exchange(
        Channel.O,
        tuple(Transfer(o_block(rank, peer), peer) for peer in peers),
        tuple(Transfer(o_block(peer, rank), peer) for peer in peers),
    )
    for peer in peers:
        yield Merge(o_block(rank, peer))


def queries_and_outputs_together(rank: int) -> Iterator[Action]:
    """One exchange brings queries and a partial output."""
    after, before = (rank + 1) % 3, (rank - 1) % 3
    yield Exchange(Channel.Q, (Transfer(q_block(before), before),), (Transfer(q_block(rank), after),))
    yield Attend(q_block(rank), kv_block(rank))
    yield Attend(q_block(before), kv_block(rank))
    yield Exchange(
        Channel.Q,
        (Transfer(q_block(after), after), Transfer(o_block(rank, after), after)),
        (Transfer(q_block(rank), before), Transfer(o_block(before, rank), before)),
    )
    yield Attend(q_block(after), kv_block(rank))
    yield Exchange(Channel.O, (Transfer(o_block(rank, before), before),), (Transfer(o_block(after, rank), after),))
    yield Merge(o_block(rank, after))
    yield Merge(o_block(rank, before))


@pytest.mark.parametrize("programs", [own_keys_in_halves, queries_and_outputs_together])
@pytest.mark.parametrize("lengths", [((4, 4, 4), (4, 4, 4)), ((4, 3, 2), (1, 5, 4)), ((4, 3, 0), (1, 0, 4))])
def test_the_widest_form_of_a_schedule_that_nobody_listed(
    programs: Callable[[int], Iterator[Action]], lengths: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    schedule, problem = verify(of_three_ranks(programs)).schedule, Problem(*lengths, 4, 2, 8, 2)
    for in_order in (False, True):
        lowered_to = lower(schedule, problem, in_order=in_order)
        prove("unlisted", lowered_to, problem, in_order=in_order)
        assert error(lowered_to, problem, at_random(1), in_order=in_order) <= EXACT
