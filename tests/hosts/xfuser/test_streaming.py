"""Causal Wan over ranks, whose keys stay where they were computed, against upstream in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.hosts.xfuser import streaming
from tests.support.ranks import RankPool
from tests.support.reference import relative_error
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.families.causal_wan.held import ChunkCall, HeldTokens

TOLERANCE = 1e-5
FRAME = 7 * 5
"""Tokens, of the frames that :func:`tests.support.families.wan.causal_wan_inputs` asks for: neither 2 nor 3 divide."""

WINDOW = {"sliding_window_num_frames": 5, "local_attn_size": 5}

CASES = [
    pytest.param(3, {"image": True}, id="three-from-a-picture"),
    pytest.param(3, WINDOW, id="three-oldest-make-room", marks=pytest.mark.matrix),
    pytest.param(2, {**WINDOW, "num_frames_per_block": 1, "sink_size": 1, "frames": 29}, id="two-sinks"),
    pytest.param(2, {"max_attention_size": 50}, id="two-few-keys", marks=pytest.mark.matrix),
    pytest.param(4, {"height": 128, "width": 96, "frames": 45}, id="four-even", marks=pytest.mark.matrix),
]


@pytest.mark.parametrize(("degree", "inputs"), CASES)
def test_chunks_of_all_ranks_are_those_of_one_process(ranks: RankPool, degree: int, inputs: dict[str, Any]) -> None:
    (alone,) = ranks.run(1, streaming.stream, 1, inputs)
    for one in ranks.run(degree, streaming.stream, degree, inputs, timeout=300):
        error = relative_error(one.latents, alone.latents)
        print(f"{degree} ranks, {inputs}: {error:.1e}")
        assert error <= TOLERANCE


def test_keys_stay_and_a_chunk_travels(ranks: RankPool) -> None:
    (alone,) = ranks.run(1, streaming.stream, 1, {})
    together = ranks.run(2, streaming.stream, 2, {})
    spoiled = ranks.run(2, streaming.stream, 2, {}, 1, True)  # padding is seen
    for one, wrong in zip(together, spoiled, strict=True):
        assert relative_error(one.latents, alone.latents) <= TOLERANCE
        assert relative_error(wrong.latents, alone.latents) > 100 * TOLERANCE
        # A frame, then chunks of three: each rank holds half of what there is, with padding.
        assert sorted(set(one.stored)) == [18, 18 + 53, 18 + 53 + 53]
        by_chunk = [{sent for sent, held in zip(one.sent, one.stored, strict=True) if held == n} for n in (18, 71, 124)]
        assert by_chunk[1] == by_chunk[2] and len(by_chunk[1]) == 1, "what is sent grows with the cache"
        assert max(by_chunk[0]) < max(by_chunk[1])


@pytest.mark.matrix
def test_what_was_not_compared_is_refused(ranks: RankPool) -> None:
    first, *others = ranks.run(4, streaming.refusals, timeout=300)
    assert others == [first] * 3
    assert "a cache of 140 tokens was asked for" in first["too long"]
    assert "use tokenring_degree alone" in first["heads"]


def test_the_runner_of_the_command_takes_it(ranks: RankPool) -> None:
    ((accepted, refused),) = ranks.run(1, streaming.runner)
    assert accepted == "xFuserCausalWanModel"
    assert "use_torch_compile was asked for together with tokenring_degree=2 for CausalWan" in refused


def test_a_cache_follows_upstream() -> None:
    """Chunks of three tokens in a cache of seven, of which at most five are seen."""
    held = HeldTokens(7, 2)
    rules = {"window": 7, "sinks": 0, "most": 5}
    turn = held.take(0, 3, **rules)
    assert (turn.tokens, turn.each, turn.kept.tolist(), held.stored) == (3, 2, [], 2)
    assert [turn.own(torch.arange(3), 0, rank).tolist() for rank in range(2)] == [[0, 1], [2, 0]]
    again = held.take(0, 3, **rules)
    assert (again.kept.tolist(), held.stored) == ([], 2), "another step of the same chunk"
    held.take(3, 3, **rules)
    assert held.stored == 4
    third = held.take(6, 3, **rules)
    assert third.kept.tolist() == [0, 2, 3], "tokens 0 and 1 made room; column 0 has token 2 on the other rank"
    assert seen_by_ranks(third) == [[2, 3, 4], [1, 3]]


def test_the_oldest_chunk_stays() -> None:
    """The same with one that is kept: token 5 is what is left of the second, and token 2 is seen on the other rank."""
    held = HeldTokens(7, 2)
    *_, third = (held.take(start, 3, window=7, sinks=1, most=5) for start in (0, 3, 6))
    assert third.kept.tolist() == [0, 1, 2]
    assert seen_by_ranks(third) == [[3, 4], [0, 2, 3]]


def seen_by_ranks(turn: ChunkCall) -> list[list[float]]:
    """Places of the keys that a chunk sees, among those that each rank holds."""
    places = torch.arange(5.0).view(1, 1, 5, 1)
    masks = [turn.layout.own(rank, 1) for rank in range(2)]
    return [mask.select(places, places)[0].flatten().tolist() for mask in masks if mask is not None]


@pytest.mark.parametrize(("start", "tokens"), [(4, 3), (0, 9)])
def test_chunks_out_of_order_or_too_long_are_refused(start: int, tokens: int) -> None:
    held = HeldTokens(7, 2)
    held.take(0, 3, window=-1, sinks=0, most=100)
    with pytest.raises(UnsupportedError, match=r"use fewer frames|in order"):
        held.take(start, tokens, window=-1, sinks=0, most=100)
