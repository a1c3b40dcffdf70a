"""The proof of lowered programs: what is damaged is refused, or computes right all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory import at_random, error
from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule import Mask, build
from tokenring_xdit.schedule.lower import lower, prove
from tokenring_xdit.schedule.lower.program import (
    Collective,
    Concat,
    Done,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    RankProgram,
    Slot,
    Step,
    View,
)
from tokenring_xdit.schedule.problem import Problem

PROBLEM = Problem((3, 4, 3, 5), (4, 3, 5, 3), 4, 4, 4)
NAMES = ["token_ring", "token_ring:chunks=2", "direct", "heads", "mesh", "bidirectional_q", "ring", "direct_kv"]

Programs = tuple[RankProgram, ...]


def programs_of(name: str, *, wide: int = 1, in_order: bool = False, problem: Problem = PROBLEM) -> Programs:
    schedule = replace(build(name, problem.ranks, heads=problem.heads).schedule, wide=wide)
    return lower(schedule, problem, in_order=in_order)


def changed(programs: Programs, rank: int, at: int, *steps: Step) -> Programs:
    """The programs with other steps in the place of one."""
    own = list(programs[rank].steps)
    index = own[at][0]
    own[at : at + 1] = [(index, step) for step in steps]
    return tuple(p._replace(steps=tuple(own)) if r == rank else p for r, p in enumerate(programs))


def find(programs: Programs, rank: int, kind: type[Step], number: int = 0) -> tuple[int, Step]:
    found = [(at, step) for at, (_, step) in enumerate(programs[rank].steps) if isinstance(step, kind)]
    return found[number]


def refused(programs: Programs, match: str, *, in_order: bool = False) -> None:
    with pytest.raises(VerificationError, match=match):
        prove("damaged", programs, PROBLEM, in_order=in_order)


def edit(step: Step, slot: int, other: int) -> Step:
    """The step with a slot, a peer or a part of it exchanged for another one."""
    if isinstance(step, Post):
        if step.collective is not None and other % 5 == 4:
            return step._replace(
                collective=None if other % 2 else next(c for c in Collective if c is not step.collective)
            )
        if step.recvs and other % 2:
            return step._replace(recvs=(step.recvs[0]._replace(slot=slot), *step.recvs[1:]))
        if step.sends and other % 3:
            return step._replace(sends=(step.sends[0]._replace(peer=other % 4), *step.sends[1:]))
        payloads = tuple(View(slot, part.cut) for part in step.payloads)
        return step._replace(payloads=payloads)
    if isinstance(step, Pack):
        return step._replace(source=slot) if other % 2 else step._replace(slot=slot)
    if isinstance(step, Concat):
        return step._replace(slot=slot) if other % 2 else step._replace(parts=step.parts[::-1])
    if isinstance(step, KernelCall):
        if other % 3 == 0:
            return step._replace(queries=View(slot, step.queries.cut))
        if other % 3 == 1:
            return step._replace(keys=View(slot, step.keys.cut))
        if step.output >= 0:
            return step._replace(output=slot)
        return step._replace(targets=tuple(target._replace(slot=slot) for target in step.targets))
    if isinstance(step, Done):
        return Done(other)
    return MergeCall(tuple(partial._replace(slot=slot) for partial in step.partials))


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(NAMES), st.sampled_from([1, 2, 8]), st.booleans(), st.integers(0, 3),
    st.sampled_from(["drop", "repeat", "swap", "move", "edit", "memory"]), st.data(),
)  # fmt: skip
def test_damage_is_refused_or_computes_right(
    name: str, wide: int, in_order: bool, rank: int, change: str, data: st.DataObject
) -> None:
    programs = programs_of(name, wide=wide, in_order=in_order)
    damaged = damage(programs, rank, change, data)
    try:
        prove(name, damaged, PROBLEM, in_order=in_order)
    except VerificationError:
        return
    for seed in range(3):
        assert error(damaged, PROBLEM, at_random(seed), in_order=in_order) <= 1e-5


def damage(programs: Programs, rank: int, change: str, data: st.DataObject) -> Programs:
    """The programs with one thing changed in that of a rank."""
    steps, slots = list(programs[rank].steps), list(programs[rank].slots)
    at, other = (data.draw(st.integers(0, len(steps) - 1)) for _ in range(2))
    if change == "drop":
        steps.pop(at)
    elif change == "repeat":
        steps.insert(other, steps[at])
    elif change == "swap":
        steps[at], steps[other] = steps[other], steps[at]
    elif change == "move":
        steps.insert(other, steps.pop(at))
    elif change == "edit":
        slot = data.draw(st.integers(0, len(slots) - 1))
        steps[at] = steps[at][0], edit(steps[at][1], slot, other)
    else:
        slot = data.draw(st.integers(3, len(slots) - 1))
        into = data.draw(st.sampled_from([-1, *range(len(slots))]))
        slots[slot] = slots[slot]._replace(inside=into, first=data.draw(st.integers(0, 6)))
    own = programs[rank]._replace(steps=tuple(steps), slots=tuple(slots))
    return tuple(own if r == rank else p for r, p in enumerate(programs))


def test_a_slot_that_is_still_needed_is_not_reused() -> None:
    """The second block of queries comes where the first one is, which has not been attended yet."""
    programs = programs_of("direct", in_order=True)
    at, post = find(programs, 0, Post)
    assert isinstance(post, Post)
    crowded = post._replace(recvs=tuple(recv._replace(slot=post.recvs[0].slot) for recv in post.recvs))
    refused(changed(programs, 0, at, crowded), "receives twice into slot")


def test_a_message_of_another_size_is_refused() -> None:
    programs = programs_of("ring", in_order=True)
    _, post = find(programs, 1, Post)
    assert isinstance(post, Post)
    slots = list(programs[1].slots)
    slot = slots[post.recvs[0].slot]
    slots[post.recvs[0].slot] = slot._replace(size=slot.size + 4)
    wrong = tuple(p._replace(slots=tuple(slots)) if r == 1 else p for r, p in enumerate(programs))
    refused(wrong, "expects keys of 4 heads, 4 tokens and 516 bytes from rank 0 on channel kv, which sends")


def test_what_was_not_received_is_not_read() -> None:
    programs = programs_of("token_ring", in_order=True)
    at, kernel = find(programs, 2, KernelCall, 1)
    assert isinstance(kernel, KernelCall)
    refused(changed(programs, 2, at, kernel._replace(queries=View(len(programs[2].slots) - 1))), "holds nothing|else")


def test_outputs_go_to_sums_of_their_own_queries() -> None:
    programs = programs_of("direct", wide=3, in_order=True)
    at, kernel = find(programs, 0, KernelCall)
    assert isinstance(kernel, KernelCall)
    first, second, *rest = kernel.targets
    swapped = kernel._replace(targets=(first._replace(rows=second.rows), second._replace(rows=first.rows), *rest))
    refused(changed(programs, 0, at, swapped), "which is of other queries|puts sum of")
    refused(changed(programs, 0, at, kernel._replace(targets=kernel.targets[1:])), "an output of it goes nowhere")


@pytest.mark.parametrize(
    ("slots", "match"),
    [
        (
            lambda slots, inner: {inner: slots[inner]._replace(first=slots[inner].first + 1)},
            "no room|lies elsewhere|do not lie as they should",
        ),
        (lambda slots, inner: {inner: slots[inner]._replace(inside=inner)}, "no room"),
        (lambda slots, inner: {inner: slots[inner]._replace(inside=-1, first=0)}, "do not lie as|no all-gather leaves"),
    ],
    ids=["shifted", "in itself", "elsewhere"],
)
def test_blocks_arrive_where_they_are_read(slots: Callable[..., dict[int, Slot]], match: str) -> None:
    """Even shards, whose queries are gathered into one slot."""
    problem = Problem.even(4, 16, 4, 4)
    programs = programs_of("token_ring", wide=4, problem=problem)
    inner = next(number for number, slot in enumerate(programs[1].slots) if slot.inside >= 0)
    changes = slots(programs[1].slots, inner)
    changed_slots = tuple(changes.get(number, slot) for number, slot in enumerate(programs[1].slots))
    damaged = tuple(p._replace(slots=changed_slots) if rank == 1 else p for rank, p in enumerate(programs))
    with pytest.raises(VerificationError, match=match):
        prove("damaged", damaged, problem, in_order=False)


def test_ranks_lay_out_their_messages_alike_and_call_the_same_collectives() -> None:
    problem = Problem.even(4, 16, 4, 4)
    programs = programs_of("token_ring", wide=4, problem=problem)
    other = programs[2]._replace(token_major=False)
    with pytest.raises(VerificationError, match=r"rank 2.*not token-major"):
        prove("damaged", (*programs[:2], other, programs[3]), problem, in_order=False)
    at, post = find(programs, 3, Post, 1)
    with pytest.raises(VerificationError, match=r"rank 3.*other collectives than rank 0"):
        prove("damaged", changed(programs, 3, at, post._replace(collective=None)), problem, in_order=False)  # type: ignore[union-attr]


def test_keys_of_other_heads_are_refused() -> None:
    programs = programs_of("heads", in_order=True)
    at, kernel = next(
        (at, step) for at, (_, step) in enumerate(programs[0].steps) if isinstance(step, KernelCall) and step.keys.cut
    )
    low, high, *tokens = kernel.keys.cut or (0, 0, 0, 0)
    moved = kernel._replace(keys=View(kernel.keys.slot, (low + 1, high + 1, *tokens)))  # type: ignore[arg-type]
    refused(changed(programs, 0, at, moved), "whose heads do not belong together")


def test_pairs_are_attended_once() -> None:
    programs = programs_of("ring", in_order=True)
    at, kernel = find(programs, 3, KernelCall)
    refused(changed(programs, 3, at, kernel, kernel), "does not attend all of rank 3's keys, or more than that")
    refused(changed(programs, 3, at), "does not attend all of rank 3's keys, or more than that")


def test_the_mask_is_that_of_the_call() -> None:
    problem = replace(PROBLEM, kv_lengths=PROBLEM.q_lengths)
    programs = programs_of("ring", problem=problem)
    with pytest.raises(VerificationError, match=r"rank 0.*does not attend all of rank 0's keys"):
        prove("full", programs, problem, mask=Mask.CAUSAL, in_order=False)


def test_a_wait_for_ever_is_refused() -> None:
    """Two ranks that both send first what the other one awaits second, on a channel that works in order."""
    programs = programs_of("token_ring", in_order=True)

    def swap_posts(program: RankProgram) -> RankProgram:
        posts = [at for at, (_, step) in enumerate(program.steps) if isinstance(step, Post)]
        steps = list(program.steps)
        steps.insert(0, steps.pop(posts[1]))
        return program._replace(steps=tuple(steps))

    damaged = (swap_posts(programs[0]), *programs[1:])
    with pytest.raises(VerificationError):
        prove("swapped", damaged, PROBLEM, in_order=True)
    # What independent transfers allow, and a channel that works in order does not.
    ring = programs_of("ring", in_order=True)
    apart = []
    for program in ring:
        steps = list(program.steps)
        at = next(at for at, (_, step) in enumerate(steps) if isinstance(step, Post))
        index, post = steps[at]
        assert isinstance(post, Post)
        receive, send = post._replace(payloads=(), sends=()), post._replace(recvs=())
        steps[at : at + 1] = [(index, receive), (index, send)]
        apart.append(program._replace(steps=tuple(steps)))
    prove("apart", apart, PROBLEM, in_order=False)
    with pytest.raises(VerificationError, match="waits for ever"):
        prove("apart", apart, PROBLEM, in_order=True)
