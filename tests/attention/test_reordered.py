"""Schedules in orders that no builder chose, but that ``verify`` accepts, on real gloo ranks.

The executor posts receives early and hands buffers back while messages are on their way: neither may
lean on how the builders happen to order things.
"""

from __future__ import annotations

import random

import pytest

from tests.attention import jobs
from tests.schedule.mutations import edited, mutate
from tests.support.ranks import RankPool
from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule import Mask, Schedule, VerifiedSchedule, build, verify

WORLD_SIZE = 4


def reordered(name: str, mask: Mask, wanted: int) -> list[Schedule]:
    """Different plans that move some actions of ``name`` by a few places and are proved all the same."""
    choose = random.Random(name)
    original = build(name, WORLD_SIZE, mask, heads=6).schedule
    found: list[VerifiedSchedule] = []
    while len(found) < wanted:
        schedule = original
        for _ in range(choose.randint(1, 3)):
            rank = choose.randrange(WORLD_SIZE)
            last = len(schedule.programs[rank]) - 1
            at = choose.randint(0, last)
            other = min(max(0, at + choose.choice([-2, -1, 1, 2, 5])), last)
            change = choose.choice(["swap", "move"])
            schedule = edited(schedule, rank, lambda p, a=(change, at, other): mutate(p, *a, peer=0))
        try:
            found += [verify(schedule)] * (schedule != original)
        except VerificationError:
            continue
    return [verified.schedule for verified in found]


@pytest.mark.parametrize("mask", Mask)
@pytest.mark.parametrize(
    "name", ["token_ring:chunks=2", "direct:chunks=2", "bidirectional", "bidirectional_q", "mesh", "hierarchical"]
)
def test_any_order_that_is_proved_is_exact(ranks: RankPool, name: str, mask: Mask) -> None:
    assert max(ranks.run(WORLD_SIZE, jobs.error_of_schedules, reordered(name, mask, wanted=8))) <= 1e-5
