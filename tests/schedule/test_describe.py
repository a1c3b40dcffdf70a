from __future__ import annotations

import json

import pytest

from tests.support.schedules import names
from tokenring_xdit.schedule import Attend, Exchange, Mask, build, describe


@pytest.mark.parametrize("name", [*names(any_ranks=True), "hierarchical:nodes=1", "direct:chunks=3"])
@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_every_action_is_told_once(name: str, world_size: int) -> None:
    schedule = build(name, world_size).schedule
    text = describe(schedule)
    attends = sum(isinstance(a, Attend) for p in schedule.programs for a in p)
    sends = sum(len(a.sends) for p in schedule.programs for a in p if isinstance(a, Exchange))
    assert text.count("attends ") == attends >= world_size**2
    assert text.count("sends ") == text.count("receives ") == sends
    assert all(f"rank {rank}" in text for rank in range(world_size))


def test_the_words_of_a_small_schedule() -> None:
    lines = describe(build("token_ring", 2).schedule).splitlines()
    assert lines[0] == "token_ring, 2 ranks, full mask"
    assert lines[1] == "each rank sends: 1 Q, 1 O (blocks)"
    assert lines[4:] == [
        "step 0",
        "  rank 0  sends Q[0] to 1, receives Q[1] from 1, attends Q[0] to KV[0]",
        "  rank 1  sends Q[1] to 0, receives Q[0] from 0, attends Q[1] to KV[1]",
        "step 1",
        "  rank 0  attends Q[1] to KV[0]",
        "  rank 1  attends Q[0] to KV[1]",
        "finish",
        "  rank 0  sends O[1,0] to 1, receives O[0,1] from 1, merges O[0,1]",
        "  rank 1  sends O[0,1] to 0, receives O[1,0] from 0, merges O[1,0]",
    ]


def test_pieces_are_told_apart_and_counted_as_parts_of_blocks() -> None:
    lines = describe(build("bidirectional:chunks=2", 2, heads=8).schedule).splitlines()
    assert lines[0] == "bidirectional:chunks=2, 2 ranks, full mask"
    assert lines[1] == "each rank sends: 1 KV (blocks)"
    assert "attends Q[1] to KV[0] tokens 2/2 heads 1/2" in "\n".join(lines)


def test_causal_pairs_are_marked() -> None:
    assert "attends Q[1] to KV[1] (causal)" in describe(build("ring", 2, Mask.CAUSAL).schedule)


def test_json_round_trip_keeps_every_action() -> None:
    schedule = build("token_ring", 3).schedule
    data = json.loads(json.dumps(schedule.to_dict()))
    assert (data["name"], data["world_size"], data["mask"]) == ("token_ring", 3, "full")
    assert [len(p) for p in data["programs"]] == [len(p) for p in schedule.programs]
    assert data["programs"][0][0] == {
        "action": "exchange",
        "channel": "q",
        "recvs": [{"block": {"kind": "Q", "owner": 2}, "peer": 2}],
        "sends": [{"block": {"kind": "Q", "owner": 0}, "peer": 1}],
    }
