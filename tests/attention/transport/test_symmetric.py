"""Blocks written straight into slots: in any order of events, call after call, and with damage that has to show."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory import at_random, ranks_first
from tests.support.schedules import names
from tests.support.symmetric import Call, TwinArea, careless_senders, errors
from tokenring_xdit.attention.transport.symmetric import SymmetricTransport
from tokenring_xdit.attention.waits import Broken, OutOfStep
from tokenring_xdit.schedule import build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.problem import Problem

FP32 = 1e-5


def call(name: str, problem: Problem, wide: int = 1, *, in_order: bool = False) -> Call:
    schedule = replace(build(name, problem.ranks, heads=math.gcd(problem.heads, problem.kv_heads)).schedule, wide=wide)
    return Call(lower(schedule, problem, in_order=in_order), problem)


UNEVEN = Problem((3, 4, 0, 5), (4, 3, 5, 0), 4, 2, 4)
EVEN = Problem.even(4, 16, 4, 4)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("wide", [1, 2, 64])
def test_every_schedule_is_exact(name: str, wide: int) -> None:
    calls = [call(name, problem, wide) for problem in (EVEN, UNEVEN, EVEN)]
    for choose in (ranks_first, at_random(1)):
        assert max(errors(calls, choose)) <= FP32


@settings(max_examples=40)
@given(
    st.integers(2, 5), st.lists(st.tuples(st.sampled_from(names(any_ranks=True)), st.sampled_from([1, 2, 64]),
    st.integers(1, 3), st.booleans(), st.integers(0, 9)), min_size=1, max_size=4), st.integers(0, 10**6),
)  # fmt: skip
def test_calls_of_any_shapes_follow_each_other(
    ranks: int, kinds: list[tuple[str, int, int, bool, int]], seed: int
) -> None:
    """Areas grow on the way; a rank may be in the next call while others are in this one."""
    calls = []
    for name, wide, chunks, in_order, shift in kinds:
        lengths = tuple((3 * rank + shift) % 7 for rank in range(ranks))
        keys = tuple((5 * rank + shift + 1) % 6 + (rank == 0) for rank in range(ranks))
        problem = Problem(lengths if sum(lengths) else (1,) * ranks, keys, 4, 2, 4)
        calls.append(call(f"{name}:chunks={chunks}", problem, wide, in_order=in_order))
    assert max(errors(calls, at_random(seed))) <= FP32


def found_out(calls: list[Call], seeds: range) -> bool:
    """Whether something is wrong in some order of events."""
    for seed in seeds:
        try:
            if not max(errors(calls, at_random(seed))) <= 1e-3:  # not a number either
                return True
        except Broken:
            return True
    return False


REUSED = [call("token_ring", Problem.even(5, 20, 2, 4)), call("token_ring", Problem.even(5, 20, 2, 4))]
"""Its queries travel through slots that are used again."""


def test_a_sender_that_does_not_wait_for_its_slot_is_found_out() -> None:
    assert not found_out(REUSED, range(3))

    with careless_senders():
        assert found_out(REUSED, range(20))


def test_a_sender_that_does_not_wait_for_the_end_of_a_call_is_found_out() -> None:
    with mock.patch.object(SymmetricTransport, "_free_since", return_value=0):
        assert found_out(REUSED, range(20))


def test_a_rank_that_says_too_early_that_it_has_ended_is_found_out() -> None:
    begin = SymmetricTransport.begin

    def early(self: SymmetricTransport, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]
        self.end()

    with mock.patch.object(SymmetricTransport, "begin", early):
        assert found_out(REUSED, range(20))


def test_a_receiver_that_does_not_wait_is_found_out() -> None:
    with mock.patch.object(SymmetricTransport, "await_transfer"):
        assert found_out(REUSED, range(20))


def test_a_message_that_is_told_before_it_is_written_is_found_out() -> None:
    copy, arrive = TwinArea.copy, TwinArea.arrive
    held: dict[int, list[object]] = {}

    def late(self: TwinArea, place: object, message: object) -> None:
        held[self.rank] = [place, message]

    def early(self: TwinArea, *args: object) -> None:
        arrive(self, *args)  # type: ignore[arg-type]
        copy(self, *held.pop(self.rank))  # type: ignore[arg-type]

    with mock.patch.object(TwinArea, "copy", late), mock.patch.object(TwinArea, "arrive", early):
        assert found_out(REUSED, range(20))


def test_ranks_at_different_calls_find_out() -> None:
    begin = SymmetricTransport.begin

    def ahead(self: SymmetricTransport, *args: object) -> None:
        if self.rank == 1 and self.call == 6:
            self.call += 1
        begin(self, *args)  # type: ignore[arg-type]

    with mock.patch.object(SymmetricTransport, "begin", ahead), pytest.raises(OutOfStep, match="is at call 7, rank"):
        errors(REUSED, at_random(0))


def test_areas_grow_to_what_the_largest_rank_needs() -> None:
    small, large = call("direct", Problem.even(3, 6, 2, 4)), call("direct", Problem((1, 1, 90), (2, 2, 2), 2, 2, 4))
    assert max(errors([small, large, small, large], at_random(4))) <= FP32
