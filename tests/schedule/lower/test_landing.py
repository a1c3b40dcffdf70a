"""Where messages land that their senders write: what is damaged is refused, and nothing else is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.schedules import names
from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule import Mask, build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.landing import (
    ByteRange,
    Footprint,
    Landing,
    Landings,
    footprint,
    landings,
    prove_landings,
)
from tokenring_xdit.schedule.lower.program import Post, RankProgram, reads, writes
from tokenring_xdit.schedule.problem import Problem

PROBLEM = Problem((3, 4, 3, 5), (4, 3, 5, 3), 4, 4, 4)


def laid_out(
    name: str, problem: Problem = PROBLEM, *, wide: int = 1, in_order: bool = False, mask: Mask = Mask.FULL
) -> tuple[tuple[RankProgram, ...], list[Footprint], Landings]:
    schedule = replace(
        build(name, problem.ranks, mask, heads=math.gcd(problem.heads, problem.kv_heads)).schedule, wide=wide
    )
    programs = lower(schedule, problem, in_order=in_order)
    memory = [footprint(program, problem.element_bytes, problem.partial_bytes) for program in programs]
    return programs, memory, landings(programs, memory)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("wide", [1, 2, 8])
@pytest.mark.parametrize("in_order", [False, True])
def test_every_schedule_is_proved(name: str, wide: int, in_order: bool) -> None:
    for problem in (PROBLEM, Problem.even(4, 32, 8, 8, kv_heads=4), Problem((0, 5, 2, 1), (3, 0, 7, 2), 4, 4, 8)):
        prove_landings(name, *laid_out(name, problem, wide=wide, in_order=in_order))


@pytest.mark.parametrize("ranks", [2, 3, 5, 6, 8])
@pytest.mark.parametrize("name", names(any_ranks=True))
def test_any_number_of_ranks(name: str, ranks: int) -> None:
    prove_landings(name, *laid_out(f"{name}:chunks=2", Problem.even(ranks, 4 * ranks + 1, 4, 8)))


def test_most_messages_wait_for_nothing() -> None:
    """A slot that is new in the call is free from its beginning, so that a sender need not be told."""
    _, _, found = laid_out("direct", Problem.even(4, 16, 4, 4), wide=4)
    assert {landing.after for of_rank in found for route in of_rank.values() for landing in route} == {0}
    _, _, found = laid_out("token_ring", Problem.even(8, 64, 8, 8))
    waiting = [landing.after > 0 for of_rank in found for route in of_rank.values() for landing in route]
    assert 0 < sum(waiting) < len(waiting)


def first_again(programs: tuple[RankProgram, ...], found: Landings) -> tuple[int, tuple[int, str], int]:
    """A message whose slot was used before."""
    return next(
        (rank, route, number)
        for rank, of_rank in enumerate(found)
        for route, messages in of_rank.items()
        for number, landing in enumerate(messages)
        if landing.after
    )


def changed(found: Landings, rank: int, route: tuple[int, str], number: int, landing: Landing) -> Landings:
    messages = list(found[rank][route])
    messages[number] = landing
    own = {**found[rank], route: tuple(messages)}
    return tuple(own if r == rank else of_rank for r, of_rank in enumerate(found))


def test_a_slot_in_use_is_not_given_away() -> None:
    programs, memory, found = laid_out("token_ring", Problem.even(8, 64, 8, 8))
    rank, route, number = first_again(programs, found)
    early = changed(found, rank, route, number, found[rank][route][number]._replace(after=0))
    with pytest.raises(VerificationError, match=rf"rank {rank}, .*come while its slot is in use"):
        prove_landings("damaged", programs, memory, early)


def test_a_wait_for_another_step_is_refused() -> None:
    """Up to its own receive the proof of programs has seen that a rank gets; up to a later step it need not."""
    programs, memory, found = laid_out("token_ring", Problem.even(8, 64, 8, 8))
    rank, route, number = first_again(programs, found)
    late = found[rank][route][number]
    with pytest.raises(VerificationError, match="at a step that is not its own"):
        prove_landings(
            "damaged", programs, memory, changed(found, rank, route, number, late._replace(after=late.after + 1))
        )


def test_messages_land_where_they_are_read() -> None:
    programs, memory, found = laid_out("direct")
    (route, messages), *_ = found[2].items()
    place = messages[0].place
    moved = changed(found, 2, route, 0, messages[0]._replace(place=place._replace(first=place.first + 4)))
    with pytest.raises(VerificationError, match="elsewhere than it lands"):
        prove_landings("damaged", programs, memory, moved)
    fewer = tuple({**of_rank, route: messages[:-1]} if rank == 2 else of_rank for rank, of_rank in enumerate(found))
    with pytest.raises(VerificationError, match="elsewhere than it lands"):
        prove_landings("damaged", programs, memory, fewer)
    more = tuple({**of_rank, route: messages * 2} if rank == 2 else of_rank for rank, of_rank in enumerate(found))
    with pytest.raises(VerificationError, match="what it never receives"):
        prove_landings("damaged", programs, memory, more)


def test_slots_lie_apart_and_inside() -> None:
    programs, memory, found = laid_out("token_ring")
    number = next(number for number, places in enumerate(memory[1].places) if places and places[0].first > 0)
    places = list(memory[1].places)
    places[number] = tuple(ByteRange(place.first - 8, place.size) for place in places[number])
    damaged = [Footprint(tuple(places), memory[1].size) if rank == 1 else each for rank, each in enumerate(memory)]
    with pytest.raises(VerificationError, match="lays slots over each other"):
        prove_landings("damaged", programs, damaged, found)
    small = [each._replace(size=each.size - 64) if rank == 3 else each for rank, each in enumerate(memory)]
    with pytest.raises(VerificationError, match="outside of its area"):
        prove_landings("damaged", programs, small, found)


NAMES = ["token_ring", "token_ring:chunks=2", "direct", "heads", "mesh", "bidirectional_q", "ring", "direct_kv"]


@settings(max_examples=150)
@given(st.sampled_from(NAMES), st.sampled_from([1, 2, 8]), st.booleans(), st.data())
def test_what_is_accepted_is_safe_byte_by_byte(name: str, wide: int, in_order: bool, data: st.DataObject) -> None:
    """Any landing, damaged or not: accepted ones never meet a step that uses the bytes, by a count of single bytes."""
    programs, memory, found = laid_out(name, wide=wide, in_order=in_order)
    rank = data.draw(st.integers(0, 3))
    routes = sorted(found[rank])
    route = data.draw(st.sampled_from(routes))
    number = data.draw(st.integers(0, len(found[rank][route]) - 1))
    old = found[rank][route][number]
    after = data.draw(st.integers(0, len(programs[rank].steps) + 1))
    first = data.draw(st.sampled_from([old.place.first, *(p.first for places in memory[rank].places for p in places)]))
    damaged = changed(found, rank, route, number, Landing(old.place._replace(first=first), after))
    try:
        prove_landings(name, programs, memory, damaged)
    except VerificationError:
        return
    counts: dict[tuple[int, str], int] = {}
    for at, (_, step) in enumerate(programs[rank].steps):
        for recv in step.recvs if isinstance(step, Post) else ():
            for place in memory[rank].places[recv.slot]:
                key = recv.peer, recv.channel
                landing = damaged[rank][key][counts.get(key, 0)]
                counts[key] = counts.get(key, 0) + 1
                landed = set(range(landing.place.first, landing.place.first + landing.place.size))
                assert landed == set(range(place.first, place.first + place.size))
                # From the moment from which it may be written; a rank says that it is at a step before it takes it.
                for _, other in programs[rank].steps[max(0, landing.after - 1) : at]:
                    for slot in {*reads(other), *writes(other)}:
                        for used in memory[rank].places[slot]:
                            assert landed.isdisjoint(range(used.first, used.first + used.size))
                assert landing.after <= at + 1
