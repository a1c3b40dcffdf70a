"""What ranks send and hold: the numbers that docs/llm.md and the planner count with."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.hosts.transformers import jobs_traffic as jobs
from tests.support.ranks import RankPool
from tokenring_xdit.planning import Machine, run
from tokenring_xdit.planning.capacity import ask_for
from tokenring_xdit.planning.layer_turn import LayerTurn
from tokenring_xdit.planning.placement import BLOCK
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.topology import load_topology

HEADS, KV_HEADS, HEAD_DIM, LAYERS, ELEMENT = 9, 3, 8, 2, 4
"""Of the small Llama, in fp32."""


def shares(tokens: int, ranks: int) -> list[int]:
    return [tokens // ranks + (rank < tokens % ranks) for rank in range(ranks)]


def keys_sent(rank: int, held: list[int], new: list[int]) -> int:
    """Keys and values to all others; of the new ones to later ranks only."""
    tokens = sum(held[rank] + (new[rank] if other > rank else 0) for other in range(len(new)) if other != rank)
    return LAYERS * 2 * KV_HEADS * HEAD_DIM * tokens * ELEMENT


def queries_sent(rank: int, held: list[int], new: list[int]) -> int:
    """Queries to whoever has keys that they see, and outputs with log-sum-exps back to whoever asked."""
    others = [other for other in range(len(new)) if other != rank]
    asked = sum(new[rank] for other in others if held[other] or other < rank)
    answered = sum(new[other] for other in others if held[rank] or rank < other)
    return LAYERS * HEADS * (asked * HEAD_DIM * ELEMENT + answered * (HEAD_DIM * ELEMENT + 4))


@pytest.mark.parametrize("ranks_", [pytest.param(2, marks=pytest.mark.matrix), 4])
@pytest.mark.parametrize("prefill", ["keys", "queries"])
def test_bytes_sent_are_those_of_the_formula(ranks: RankPool, prefill: str, ranks_: int) -> None:
    sent = {"keys": keys_sent, "queries": queries_sent}[prefill]
    prompt = shares(83, ranks_)
    for rank, (whole, later, step) in enumerate(ranks.run(ranks_, jobs.bytes_sent, "llama", prefill, 83, 40)):
        assert whole == sent(rank, [0] * ranks_, prompt)
        assert later == sent(rank, prompt, jobs.turn_lengths(83, 40, ranks_))
        assert step == LAYERS * (ranks_ - 1) * HEADS * (HEAD_DIM + 1) * 4
        found = planned(ranks_, 0, 83, Way(prefill)), planned(ranks_, 83, 40, Way(prefill)), planned(ranks_, 123, 1)
        assert [sent[rank] for sent in found] == [whole, later, step]


def planned(ranks_: int, past: int, new: int, way: Way = Way.OUTPUTS) -> list[int]:
    """What the planner says that each rank sends."""
    turn = LayerTurn(ranks_, past, new, HEADS, KV_HEADS, HEAD_DIM, element_bytes=ELEMENT)
    found = run(way.value, turn.programs(way), load_topology(f"mesh:{ranks_}:1gbit"), Machine(1e12))
    return [LAYERS * sent for sent in found.sent]


def test_a_trace_shows_what_is_sent(ranks: RankPool) -> None:
    """Keys of the first rank go to the second one, in each layer."""
    (received, sent), (_, nothing) = ranks.run(2, jobs.traced, "llama", "keys", 83)
    size = keys_sent(0, [0, 0], shares(83, 2)) // LAYERS
    assert received == [(1, "KV[0]", size)] * LAYERS
    assert (sent, nothing) == (LAYERS * size, 0)


@pytest.mark.parametrize(("new", "wanted"), [(20, "queries"), (23, "queries"), (60, "keys"), (83, "keys")])
def test_what_is_less_travels(ranks: RankPool, new: int, wanted: str) -> None:
    """Three query heads a key head, and outputs come back: queries are less where new tokens are fewer than a third."""
    sent = {"keys": keys_sent, "queries": queries_sent}[wanted]
    held, turn = shares(83, 2), jobs.turn_lengths(83, new, 2)
    for rank, (_, later, _) in enumerate(ranks.run(2, jobs.bytes_sent, "llama", "balanced", 83, new)):
        assert later == sent(rank, held, turn)


@pytest.mark.parametrize(("tokens", "turn", "answer"), [(211, 37, 100), (64, 3, 5), (7, 90, 33)])
@pytest.mark.parametrize("ranks_", [3, *(pytest.param(n, marks=pytest.mark.matrix) for n in (1, 4))])
def test_a_rank_holds_its_share_and_a_block(ranks: RankPool, ranks_: int, tokens: int, turn: int, answer: int) -> None:
    length = tokens + turn + answer - 1  # the last token of an answer is not computed
    for held in ranks.run(ranks_, jobs.keys_held, "llama", tokens, turn, answer):
        assert len(held) == LAYERS
        assert max(count for count, _ in held) <= -(-length // ranks_) + BLOCK
        assert all(size <= 2 * KV_HEADS * HEAD_DIM * ELEMENT * (count + BLOCK) for count, size in held)


WIDE = {
    "hidden_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "max_position_embeddings": 8192,
}
"""Wide enough for tensors of tokens to be most of what there is."""

OWN: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "gemma3": {"sliding_window": 256, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
    "gpt-oss": {
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_local_experts": 8,
        "num_experts_per_tok": 4,
    },
    "qwen3-moe": {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 96},
}
"""What is large of each model: windows, experts."""


DEFAULT = {("qwen3", 2, None), ("qwen3", 4, 512)}


@pytest.mark.parametrize(
    ("kind", "ranks_", "chunk"),
    [
        pytest.param(*case, marks=() if case in DEFAULT else pytest.mark.matrix)
        for case in product(OWN, (1, 2, 4), (None, 512))
    ],
)
def test_fit_forecasts_what_a_rank_really_allocates(ranks: RankPool, kind: str, ranks_: int, chunk: int | None) -> None:
    forecast_is_right(ranks, kind, ranks_, chunk)


@pytest.mark.parametrize(
    ("kind", "chunk"),
    [
        pytest.param(*case, marks=() if case == ("qwen3", 512) else pytest.mark.matrix)
        for case in product(OWN, (None, 512))
    ],
)
def test_fit_forecasts_what_the_unmodified_model_really_allocates(
    ranks: RankPool, kind: str, chunk: int | None
) -> None:
    forecast_is_right(ranks, kind, 1, chunk, unmodified=True)


def forecast_is_right(ranks: RankPool, kind: str, ranks_: int, chunk: int | None, *, unmodified: bool = False) -> None:
    """Never more than the forecast, and not so much less that memory would lie idle."""
    tokens = 4096 if kind != "gpt-oss" else 2048
    settings = {**WIDE, **OWN[kind]}
    found = ranks.run(ranks_, jobs.peak, kind, settings, tokens, chunk, unmodified, timeout=300)
    need = ask_for(found[0][0], tokens, ranks=ranks_, element_bytes=ELEMENT, chunk=chunk, unmodified=unmodified)
    peak = max(peak for _, peak in found)
    assert 0.85 * (need.total - need.weights) <= peak <= need.total - need.weights


@pytest.mark.parametrize(("new", "wanted"), [(20, "queries"), (83, "keys")])
def test_where_the_network_is_known_the_planner_chooses(ranks: RankPool, new: int, wanted: str) -> None:
    """Nothing else is said: the default; on links so slow that bytes decide."""
    sent = {"keys": keys_sent, "queries": queries_sent}[wanted]
    held, turn = shares(83, 2), jobs.turn_lengths(83, new, 2)
    for rank, (names, errors, later) in enumerate(ranks.run(2, jobs.planned, "mesh:2:1kbit", 83, new)):
        assert max(errors) <= 1e-5
        assert names[0] is not None
        assert names[1] == wanted
        assert later == sent(rank, held, turn)
