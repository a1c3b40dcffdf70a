from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.interpreter import asked_once, meetings
from tests.schedule.mutations import edited, mutate
from tests.support.schedules import EVERY_MASK
from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule import (
    Action,
    Attend,
    Channel,
    Exchange,
    Mask,
    Merge,
    Piece,
    Schedule,
    Transfer,
    VerifiedSchedule,
    build,
    kv_block,
    o_block,
    q_block,
    verify,
)


def index_of(schedule: Schedule, rank: int, wanted: Callable[[Action], bool]) -> int:
    return next(i for i, action in enumerate(schedule.programs[rank]) if wanted(action))


def refused(schedule: Schedule) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify(schedule)
    assert f"rank {caught.value.rank}" in str(caught.value)
    if caught.value.action is not None:
        assert f"action {caught.value.action}" in str(caught.value)
    return caught.value


TOKEN_RING = build("token_ring", 4).schedule
RING = build("ring", 3).schedule


def test_a_missing_pair_is_refused() -> None:
    at = index_of(TOKEN_RING, 2, lambda a: isinstance(a, Attend) and a.q.owner == 2)
    error = refused(edited(TOKEN_RING, 2, lambda p: p.pop(at)))
    assert (error.rank, error.action) == (2, None)
    assert "Q[2] never attends all of KV[2]" in str(error)


def test_a_pair_attended_twice_is_refused() -> None:
    at = index_of(RING, 1, lambda a: isinstance(a, Attend))
    error = refused(edited(RING, 1, lambda p: p.insert(at + 1, p[at])))
    assert (error.rank, error.action) == (1, at + 1)
    assert "a second time, after rank 1, action 1" in str(error)


def test_a_pair_attended_twice_on_different_ranks_is_refused() -> None:
    programs = (
        (Exchange(Channel.KV, sends=(Transfer(kv_block(0), 1),)), Attend(q_block(0), kv_block(0))),
        (Exchange(Channel.KV, recvs=(Transfer(kv_block(0), 0),)), Attend(q_block(1), kv_block(0))),
    )
    assert "Q[0] never attends all of KV[1]" in str(refused(Schedule("half", 2, programs)))


def test_attending_before_holding_is_refused() -> None:
    error = refused(edited(RING, 0, lambda p: p.insert(0, Attend(q_block(0), kv_block(2)))))
    assert (error.rank, error.action) == (0, 0)
    assert "attends KV[2] before holding it" in str(error)


def test_sending_before_holding_is_refused() -> None:
    def send_too_early(program: list[Action]) -> None:
        first, second = program[0], program[2]
        assert isinstance(first, Exchange) and isinstance(second, Exchange)
        program[0], program[2] = replace(first, sends=second.sends), replace(second, sends=first.sends)

    swapped = RING
    for rank in range(3):
        swapped = edited(swapped, rank, send_too_early)

    def expect_swapped(program: list[Action]) -> None:
        first, second = program[0], program[2]
        assert isinstance(first, Exchange) and isinstance(second, Exchange)
        program[0], program[2] = replace(first, recvs=second.recvs), replace(second, recvs=first.recvs)

    for rank in range(3):
        swapped = edited(swapped, rank, expect_swapped)
    error = refused(swapped)
    assert (error.rank, error.action) == (0, 0)
    assert "sends KV[2] before holding it" in str(error)


def test_a_partial_sent_before_it_is_computed_is_refused() -> None:
    at = index_of(TOKEN_RING, 1, lambda a: isinstance(a, Exchange) and a.channel is Channel.O)
    error = refused(edited(TOKEN_RING, 1, lambda p: p.insert(1, p.pop(at))))
    assert error.rank == 1
    assert "sends O[0,1] before holding it" in str(error)


def test_a_partial_that_never_comes_home_is_refused() -> None:
    def keep(program: list[Action]) -> None:
        program[:] = [a for a in program if not (isinstance(a, Exchange) and a.channel is Channel.O)]

    def forget(program: list[Action]) -> None:
        keep(program)
        program[:] = [a for a in program if not isinstance(a, Merge)]

    lossy = TOKEN_RING
    for rank in range(4):
        lossy = edited(lossy, rank, forget)
    assert "is computed but never returned: it is lost" in str(refused(lossy))


def test_a_partial_that_is_not_merged_is_refused() -> None:
    at = index_of(TOKEN_RING, 3, lambda a: isinstance(a, Merge))
    error = refused(edited(TOKEN_RING, 3, lambda p: p.pop(at)))
    assert error.rank == 3
    assert "is returned but never merged: it is lost" in str(error)


def test_a_partial_merged_twice_is_refused() -> None:
    at = index_of(TOKEN_RING, 3, lambda a: isinstance(a, Merge))
    error = refused(edited(TOKEN_RING, 3, lambda p: p.insert(at, p[at])))
    assert (error.rank, error.action) == (3, at + 1)
    assert "a second time" in str(error)


def test_a_partial_sent_to_the_wrong_rank_is_refused() -> None:
    programs = (
        (
            Exchange(Channel.Q, recvs=(Transfer(q_block(1), 1),)),
            Attend(q_block(0), kv_block(0)),
            Attend(q_block(1), kv_block(0)),
            Exchange(Channel.O, sends=(Transfer(o_block(1, 0), 2),)),
        ),
        (Exchange(Channel.Q, sends=(Transfer(q_block(1), 0),)),),
        (Exchange(Channel.O, recvs=(Transfer(o_block(1, 0), 0),)),),
    )
    error = refused(Schedule("astray", 3, programs))
    assert "O[1,0]" in str(error)
    assert "rank 1" in str(error)


def test_sides_that_differ_in_order_are_refused() -> None:
    q0, q1 = Piece(0, 2), Piece(1, 2)
    programs = (
        (
            Exchange(Channel.Q, sends=(Transfer(q_block(0, tokens=q0), 1), Transfer(q_block(0, tokens=q1), 1))),
            Attend(q_block(0), kv_block(0)),
        ),
        (Exchange(Channel.Q, recvs=(Transfer(q_block(0, tokens=q1), 0), Transfer(q_block(0, tokens=q0), 0))),),
    )
    error = refused(Schedule("crossed", 2, programs))
    assert (error.rank, error.action) == (1, 0)
    assert "the order of the two sides differs" in str(error)


def test_a_send_that_nobody_receives_is_refused() -> None:
    programs = ((Exchange(Channel.Q, sends=(Transfer(q_block(0), 1),)),), ())
    assert "which never receives it" in str(refused(Schedule("shout", 2, programs)))


def test_a_receive_that_nobody_sends_is_refused() -> None:
    programs = ((), (Exchange(Channel.Q, recvs=(Transfer(q_block(0), 0),)),))
    error = refused(Schedule("listen", 2, programs))
    assert (error.rank, error.action) == (1, 0)
    assert "would wait for ever" in str(error)


def test_a_circular_wait_is_refused() -> None:
    """Each rank wants the other's keys before it sends its own."""
    programs = tuple(
        (
            Exchange(Channel.KV, recvs=(Transfer(kv_block(1 - rank), 1 - rank),)),
            Attend(q_block(rank), kv_block(1 - rank)),
            Exchange(Channel.KV, sends=(Transfer(kv_block(rank), 1 - rank),)),
            Attend(q_block(rank), kv_block(rank)),
        )
        for rank in range(2)
    )
    error = refused(Schedule("after you", 2, programs))
    assert (error.rank, error.action) == (0, 1)
    assert "circular wait" in str(error)


def test_a_wait_that_only_a_blocking_channel_has_is_refused() -> None:
    """Both ranks post at once, but in orders that a channel which works in order cannot serve."""
    a = Exchange(Channel.Q, sends=(Transfer(q_block(0), 1),)), Exchange(Channel.Q, recvs=(Transfer(q_block(1), 1),))
    b = Exchange(Channel.Q, sends=(Transfer(q_block(1), 0),)), Exchange(Channel.Q, recvs=(Transfer(q_block(0), 0),))
    assert "waits for ever" in str(refused(Schedule("cross", 2, (a, b))))


def test_a_wait_for_a_buffer_is_refused() -> None:
    """Rank 0 would receive into the buffer of a send that its peer takes only after rank 0's next exchange."""
    half = Piece(0, 2)
    programs = (
        (
            Exchange(Channel.Q, recvs=(Transfer(q_block(1), 1),)),
            Attend(q_block(1), kv_block(0)),
            Exchange(Channel.O, sends=(Transfer(o_block(1, 0), 1),)),
            Exchange(Channel.KV, sends=(Transfer(kv_block(0, tokens=half), 1),)),
        ),
        (
            Exchange(Channel.Q, sends=(Transfer(q_block(1), 0),)),
            Exchange(Channel.KV, recvs=(Transfer(kv_block(0, tokens=half), 0),)),
            Exchange(Channel.O, recvs=(Transfer(o_block(1, 0), 0),)),
        ),
    )
    error = refused(Schedule("backlog", 2, programs))
    assert (error.rank, error.action) == (0, 3)
    assert "waits for ever" in str(error)


def test_what_is_received_has_to_be_used() -> None:
    programs = (
        (Exchange(Channel.Q, sends=(Transfer(q_block(0), 1),)), Attend(q_block(0), kv_block(0))),
        (Exchange(Channel.Q, recvs=(Transfer(q_block(0), 0),)), Attend(q_block(1), kv_block(1))),
    )
    causal = build("token_ring", 2, Mask.CAUSAL).schedule
    idle = replace(causal, programs=tuple(a + b for a, b in zip(programs, causal.programs, strict=True)))
    assert "Q[0]" in str(refused(idle))


def test_pieces_that_the_executor_could_not_keep_apart_are_refused() -> None:
    def on_one_rank(*attends: Attend, mask: Mask = Mask.FULL) -> str:
        return str(refused(Schedule("pieces", 1, (attends,), mask)))

    half, third = Piece(0, 2), Piece(1, 3)
    cut = Attend(q_block(0, tokens=half), kv_block(0), Mask.CAUSAL)
    assert "which only whole blocks can be" in on_one_rank(cut, mask=Mask.CAUSAL)
    crossed = Attend(q_block(0, heads=half), kv_block(0, heads=third))
    assert "whose heads are not pieces of each other" in on_one_rank(crossed)


def test_a_partial_is_sent_as_it_was_built() -> None:
    at = index_of(TOKEN_RING, 1, lambda a: isinstance(a, Attend) and a.q.owner == 0)

    def in_halves(program: list[Action]) -> None:
        program[at : at + 1] = [Attend(q_block(0, tokens=Piece(i, 2)), kv_block(1)) for i in range(2)]

    error = refused(edited(TOKEN_RING, 1, in_halves))
    assert error.rank == 1
    assert "sends O[0,1] before holding it" in str(error)


def test_attending_what_the_mask_forbids_is_refused() -> None:
    causal = build("ring", 2, Mask.CAUSAL).schedule
    unmasked = edited(causal, 0, lambda p: p.__setitem__(-1, replace(p[-1], mask=Mask.FULL)))
    assert "with mask full, which causal forbids" in str(refused(unmasked))
    later = replace(build("ring", 2).schedule, mask=Mask.CAUSAL)
    error = refused(later)
    assert error.rank == 0
    assert "causal forbids" in str(error)


@pytest.mark.parametrize("peer", [0, 7, -1])
def test_peers_that_do_not_exist_are_refused(peer: int) -> None:
    programs = ((Exchange(Channel.Q, sends=(Transfer(q_block(0), peer),)),), ())
    assert "which is no peer" in str(refused(Schedule("void", 2, programs)))


def test_a_verified_schedule_cannot_be_made_from_a_broken_one() -> None:
    with pytest.raises(VerificationError):
        VerifiedSchedule(edited(RING, 0, lambda p: p.pop()))


def test_blocks_may_be_cut_in_tokens_and_heads() -> None:
    """Half the heads' keys each way, in two pieces of tokens: every atom is met once."""
    programs = []
    for rank in range(2):
        pieces = [(Piece(t, 2), Piece(h, 2)) for t in range(2) for h in range(2)]
        blocks = [(kv_block(1 - rank, tokens=t, heads=h), kv_block(rank, tokens=t, heads=h)) for t, h in pieces]
        program: list[Action] = [
            Exchange(Channel.KV, recvs=(Transfer(theirs, 1 - rank),), sends=(Transfer(ours, 1 - rank),))
            for theirs, ours in blocks
        ]
        program.append(Attend(q_block(rank), kv_block(rank)))
        program += [Attend(q_block(rank), theirs) for theirs, _ in blocks]
        programs.append(tuple(program))
    schedule = Schedule("cut", 2, tuple(programs))
    verify(schedule)
    assert "Q[1] never attends all of KV[0]" in str(refused(edited(schedule, 1, lambda p: p.pop())))


def test_a_piece_that_never_arrives_is_refused() -> None:
    """Both sides forget the last piece of one block, and the attention of it."""
    last = Piece(2, 3)
    schedule = build("direct_kv:chunks=3", 3).schedule
    lost = kv_block(0, tokens=last)

    def forget(program: list[Action]) -> None:
        for at, action in enumerate(program):
            if isinstance(action, Exchange):
                recvs = tuple(t for t in action.recvs if t.block != lost)
                program[at] = replace(action, recvs=recvs, sends=tuple(t for t in action.sends if t.block != lost))

    for rank in range(3):
        schedule = edited(schedule, rank, forget)
    error = refused(schedule)
    assert f"attends {lost} before holding it" in str(error)
    for rank in (1, 2):
        schedule = edited(schedule, rank, lambda p: p.remove(next(a for a in p if getattr(a, "kv", None) == lost)))
    assert "never attends all of KV[0]" in str(refused(schedule))


def test_half_the_heads_taken_twice_is_refused() -> None:
    schedule = build("bidirectional", 3).schedule
    at = index_of(schedule, 1, lambda a: isinstance(a, Attend) and a.kv.heads == Piece(1, 2))
    attend = schedule.programs[1][at]
    assert isinstance(attend, Attend)
    other_half = replace(attend, kv=replace(attend.kv, heads=Piece(0, 2)))
    assert "heads 1/2 a second time" in str(refused(edited(schedule, 1, lambda p: p.__setitem__(at, other_half))))
    error = refused(edited(schedule, 1, lambda p: p.insert(at, attend)))
    assert (error.rank, error.action) == (1, at + 1)
    assert "heads 2/2 a second time" in str(error)


def test_a_piece_returned_for_another_is_refused() -> None:
    """The first two returns of a rank change places on the sender's side only."""
    schedule = build("direct:chunks=2", 2).schedule

    def exchange_pieces(program: list[Action]) -> None:
        at = [i for i, a in enumerate(program) if isinstance(a, Exchange) and a.channel is Channel.O]
        first, second = (program[i] for i in at)
        assert isinstance(first, Exchange) and isinstance(second, Exchange)
        program[at[0]], program[at[1]] = replace(first, sends=second.sends), replace(second, sends=first.sends)

    assert "the order of the two sides differs" in str(refused(edited(schedule, 0, exchange_pieces)))


def test_queries_kept_for_all_rounds_are_returned_once() -> None:
    """Between nodes: a partial that goes home in the first round cannot be built on in the second."""
    schedule = build("hierarchical:nodes=2,inside=direct", 4).schedule

    def hurry(program: list[Action]) -> None:
        at = next(i for i, a in enumerate(program) if isinstance(a, Exchange) and a.channel is Channel.O)
        guest = next(i for i, a in enumerate(program) if isinstance(a, Attend) and a.q.owner != a.kv.owner)
        program.insert(guest + 1, program.pop(at))

    for rank in range(4):
        schedule = edited(schedule, rank, hurry)
    assert "after its partial output was sent away" in str(refused(schedule))


IN_PIECES = [
    "bidirectional:chunks=2",
    "direct:chunks=2",
    "direct_kv:chunks=3",
    "hierarchical:inside=direct",
    "mesh:chunks=2",
    "token_ring:chunks=3",
]


@settings(max_examples=600)
@given(st.data())
def test_whatever_is_accepted_computes_every_pair_once(data: st.DataObject) -> None:
    """Schedules broken at random: accepted ones are right by a reading that shares nothing with verify."""
    in_pieces = [(name, mask) for name in IN_PIECES for mask in Mask]
    name, mask = data.draw(st.sampled_from([*EVERY_MASK, *in_pieces, ("near_far:chunks=2", Mask.CAUSAL)]))
    world_size = data.draw(st.sampled_from([2, 4, 6]) if "hierarchical" in name else st.integers(2, 6))
    schedule = build(name, world_size, mask, data.draw(st.sampled_from([5, 6]))).schedule
    for _ in range(data.draw(st.integers(1, 3))):
        rank = data.draw(st.integers(0, schedule.world_size - 1))
        program = schedule.programs[rank]
        if not program:
            continue
        at = data.draw(st.integers(0, len(program) - 1))
        change = data.draw(st.sampled_from(["drop", "repeat", "swap", "move", "retarget", "recut"]))
        other = data.draw(st.integers(0, len(program) - 1))
        peer = data.draw(st.integers(0, schedule.world_size - 1))
        schedule = edited(schedule, rank, lambda p, a=(change, at, other, peer): mutate(p, *a))
    try:
        verify(schedule)
    except VerificationError:
        return
    tokens = [12] * schedule.world_size  # every cut of the schedules above falls between two tokens
    assert np.array_equal(meetings(schedule, tokens, 6), asked_once(schedule.mask, tokens, 6))
