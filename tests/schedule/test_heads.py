from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.interpreter import asked_once, meetings
from tokenring_xdit.schedule import Attend, Channel, Exchange, Kind, Mask, verify
from tokenring_xdit.schedule.builders.heads import heads


@pytest.mark.parametrize(("world_size", "count"), [(1, 3), (2, 5), (3, 7), (4, 2), (5, 24), (8, 8)])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("peers", [None, 1, 2, 9])
def test_any_number_of_heads_goes_round(world_size: int, count: int, chunks: int, peers: int | None) -> None:
    schedule = verify(heads(world_size, count, chunks=chunks, peers=peers)).schedule
    tokens = [1 + rank % 4 for rank in range(world_size)]
    assert np.array_equal(meetings(schedule, tokens, count), asked_once(Mask.FULL, tokens, count))


@pytest.mark.parametrize(("world_size", "count"), [(3, 8), (4, 6), (5, 24)])
def test_shares_differ_by_one_head_at_most_and_hold_their_key_heads(world_size: int, count: int) -> None:
    """With three query heads for each key head the same cut has to fit both."""
    verified = verify(heads(world_size, count))
    assert verified.takes_heads(3 * count, count)
    attended = [
        {action.q.heads for action in program if isinstance(action, Attend)} for program in verified.schedule.programs
    ]
    sizes = [sum(b - a for a, b in (piece.bounds(count) for piece in pieces)) for pieces in attended]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("peers", "waves"), [(None, [7]), (1, [1] * 7), (3, [3, 3, 1]), (64, [7])])
def test_peers_are_served_in_waves(peers: int | None, waves: list[int]) -> None:
    program = heads(8, peers=peers).programs[5]
    exchanges = [action for action in program if isinstance(action, Exchange) and action.channel is Channel.KV]
    assert [len({t.peer for t in exchange.sends}) for exchange in exchanges] == waves
    assert [len({t.peer for t in exchange.recvs}) for exchange in exchanges] == waves


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_a_rank_sends_a_share_of_everything(world_size: int) -> None:
    sent = sum(
        (2 if t.block.kind is Kind.KV else 1) / t.block.heads.count
        for action in heads(world_size).programs[0]
        if isinstance(action, Exchange)
        for t in action.sends
    )
    assert sent == pytest.approx(4 * (world_size - 1) / world_size)
