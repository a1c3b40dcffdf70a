"""Causal attention in equal shares over contiguous shards."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from tests.schedule.interpreter import asked_once, meetings
from tokenring_xdit.errors import ScheduleError, VerificationError
from tokenring_xdit.schedule import (
    ALGORITHMS,
    Attend,
    Exchange,
    Kind,
    Mask,
    Program,
    Schedule,
    build,
    verify,
)


def near_far(ranks: int, heads: int = 0, chunks: int = 1) -> Schedule:
    return build(f"near_far:chunks={chunks}", ranks, Mask.CAUSAL, heads).schedule


def work(program: Program) -> Fraction:
    """Pairs of blocks that a rank attends; its own, of which the mask leaves half, counts half."""
    done = Fraction(0)
    for attend in (action for action in program if isinstance(action, Attend)):
        queries, keys = attend.narrowed
        share = queries.share * keys.share * keys.heads.count  # heads are the same ones, and count once
        done += share / 2 if attend.mask is Mask.CAUSAL else share
    return done


def sent(program: Program) -> Fraction:
    """Blocks of queries that a rank sends: keys with values are two."""
    units = {Kind.Q: 1, Kind.KV: 2, Kind.O: 1}
    transfers = (t for a in program if isinstance(a, Exchange) for t in a.sends)
    return sum((units[t.block.kind] * t.block.share for t in transfers), Fraction(0))


@pytest.mark.parametrize("ranks", range(1, 17))
def test_it_is_proved_and_every_rank_does_the_same_work(ranks: int) -> None:
    for heads, chunks in product((5, 6), (1, 3)):
        schedule = near_far(ranks, heads, chunks)
        assert schedule.mask is Mask.CAUSAL
        assert [work(program) for program in schedule.programs] == [Fraction(ranks, 2)] * ranks
        tokens = [4 + 2 * (rank % 3) for rank in range(ranks)]
        assert np.array_equal(meetings(schedule, tokens, heads), asked_once(Mask.CAUSAL, tokens, heads))


def test_what_is_derived_from_a_full_plan_is_lopsided() -> None:
    """So the test above can fail."""
    for name in ("token_ring", "ring"):
        shares = [work(program) for program in build(name, 8, Mask.CAUSAL).schedule.programs]
        assert (sum(shares), max(shares)) == (32, Fraction(15, 2))  # 1.875 times the mean


@pytest.mark.parametrize("ranks", range(2, 17))
def test_near_pairs_are_attended_by_the_rank_of_the_queries_and_far_ones_by_that_of_the_keys(ranks: int) -> None:
    for rank, program in enumerate(near_far(ranks).programs):
        for attend in (action for action in program if isinstance(action, Attend)):
            distance = attend.q.owner - attend.kv.owner
            assert distance >= 0
            if 2 * distance < ranks:
                assert attend.q.owner == rank
            elif 2 * distance > ranks:
                assert attend.kv.owner == rank


@pytest.mark.parametrize("ranks", range(2, 17))
def test_what_it_sends_is_what_the_documentation_says(ranks: int) -> None:
    by_heads = [sent(program) for program in near_far(ranks, heads=8).programs]
    assert sum(by_heads) == ranks * (ranks - 1)
    assert by_heads == sorted(by_heads, reverse=True)
    assert by_heads[0] == Fraction(3 * (ranks - 1), 2)
    by_tokens = [sent(program) for program in near_far(ranks, heads=5).programs]
    assert sum(by_tokens) == sum(by_heads) + (Fraction(ranks, 2) if ranks % 2 == 0 else 0)


def test_outputs_are_sent_home_before_a_rank_attends_what_stays() -> None:
    for rank, program in enumerate(near_far(8, chunks=2).programs):
        last = max(index for index, action in enumerate(program) if isinstance(action, Exchange))
        before, after = ([a for a in part if isinstance(a, Attend)] for part in (program[:last], program[last:]))
        assert [a.kv.owner for a in before if a.q.owner == rank] == [rank]  # its own pair, while queries come
        assert all(a.q.owner == rank != a.kv.owner for a in after)
        assert bool(after) is (rank > 0)


def test_a_full_mask_is_refused_in_one_sentence() -> None:
    with pytest.raises(ScheduleError) as refusal:
        build("near_far", 4)
    said = str(refusal.value)
    assert said.startswith("schedule 'near_far' works under a causal mask only, and a full mask was asked for. ")
    assert all(name in said for name, algorithm in ALGORITHMS.items() if Mask.FULL in algorithm.masks)
    assert said.count("near_far") == 1


def test_it_cannot_run_inside_nodes() -> None:
    with pytest.raises(ScheduleError, match=r"no inside=near_far"):
        build("hierarchical:inside=near_far", 4, Mask.CAUSAL)


def test_the_plan_is_not_derived_from_a_full_one() -> None:
    plan = ALGORITHMS["near_far"].plan(6, Mask.CAUSAL)
    assert plan == ALGORITHMS["near_far"].write(6, 0)


@pytest.mark.parametrize("rank", [0, 3, 5])
def test_an_action_less_is_noticed(rank: int) -> None:
    plan = near_far(6)
    for index in range(len(plan.programs[rank])):
        shorter = (*plan.programs[rank][:index], *plan.programs[rank][index + 1 :])
        programs = (*plan.programs[:rank], shorter, *plan.programs[rank + 1 :])
        with pytest.raises(VerificationError):
            verify(Schedule("broken", 6, programs, Mask.CAUSAL))
