from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schedule.interpreter import pairs_at_home
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule import BUILDERS, Attend, Channel, Exchange, Kind, Mask, Merge, build


def asked(world_size: int, rank: int, mask: Mask) -> Counter[tuple[int, int]]:
    last = rank if mask is Mask.CAUSAL else world_size - 1
    return Counter((rank, kv) for kv in range(last + 1))


@pytest.mark.parametrize("mask", Mask)
@pytest.mark.parametrize("world_size", range(1, 17))
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_builder_is_proved_and_meets_every_pair_once(name: str, world_size: int, mask: Mask) -> None:
    schedule = build(name, world_size, mask).schedule
    assert schedule.world_size == world_size
    assert pairs_at_home(schedule) == [asked(world_size, rank, mask) for rank in range(world_size)]


@given(st.sampled_from(sorted(BUILDERS)), st.integers(1, 40), st.sampled_from(Mask))
def test_larger_worlds_are_proved_too(name: str, world_size: int, mask: Mask) -> None:
    assert build(name, world_size, mask).schedule.mask is mask


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_one_rank_is_plain_attention(name: str) -> None:
    (program,) = build(name, 1).schedule.programs
    assert [type(action) for action in program] == [Attend]


@pytest.mark.parametrize("world_size", range(2, 17))
def test_traffic_is_what_the_papers_say(world_size: int) -> None:
    """N - 1 K/V blocks one way for ring; N - 1 Q blocks and N - 1 partials back for TokenRing."""

    def sent(name: str) -> list[Counter[Kind]]:
        return [
            Counter(t.block.kind for a in program if isinstance(a, Exchange) for t in a.sends)
            for program in build(name, world_size).schedule.programs
        ]

    steps = world_size - 1
    assert sent("ring") == [Counter({Kind.KV: steps})] * world_size
    assert sent("token_ring") == [Counter({Kind.Q: steps, Kind.O: steps})] * world_size


@pytest.mark.parametrize("world_size", range(2, 17))
def test_token_ring_sends_queries_forward_and_outputs_straight_home_from_step_one(world_size: int) -> None:
    for rank, program in enumerate(build("token_ring", world_size).schedule.programs):
        attended = 0
        for action in program:
            if isinstance(action, Attend):
                attended += 1
            elif isinstance(action, Exchange):
                for t in action.sends:
                    if action.channel is Channel.Q:
                        assert t.peer == (rank + 1) % world_size
                    else:
                        assert t.peer == t.block.owner == (rank - (attended - 1)) % world_size
        first_return = next(i for i, a in enumerate(program) if isinstance(a, Exchange) and a.channel is Channel.O)
        assert sum(isinstance(a, Attend) for a in program[:first_return]) == 2  # its own block, then the first guest


@pytest.mark.parametrize("world_size", range(3, 17))
def test_token_ring_keeps_a_bounded_number_of_returns_in_flight(world_size: int) -> None:
    for program in build("token_ring", world_size).schedule.programs:
        waiting = most = 0
        for action in program:
            if isinstance(action, Exchange) and action.channel is Channel.O:
                waiting += len(action.recvs)
            waiting -= isinstance(action, Merge)
            most = max(most, waiting)
        assert most <= 3


def test_unknown_names_are_refused_with_the_nearest_spelling() -> None:
    with pytest.raises(ScheduleError, match=r"no schedule 'tokenring'.*Did you mean 'token_ring'\?"):
        build("tokenring", 4)


@pytest.mark.parametrize("world_size", [0, -1])
def test_worlds_without_ranks_are_refused(world_size: int) -> None:
    with pytest.raises(ScheduleError, match="at least one rank"):
        build("ring", world_size)
