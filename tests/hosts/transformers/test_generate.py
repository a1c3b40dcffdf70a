"""``generate`` over several ranks: the tokens of one process with the first rank's seed, on every rank."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts.transformers import jobs
from tests.hosts.transformers.models import KINDS
from tests.support.ranks import RankPool

SAID = {"llama-dynamic", "gemma3", "gpt-oss", "phi3", "qwen2-moe"}
"""Kinds whose greedy tokens are compared without the matrix too; of all others that is so of their logits, by turns."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in SAID else pytest.mark.matrix) for kind in KINDS]
)
def test_greedy_tokens(ranks: RankPool, kind: str) -> None:
    says_the_same(ranks, 3, kind, ["greedy"], None)


@pytest.mark.parametrize(
    ("kind", "padding"),
    [
        *(("llama", [0, 17]), ("gpt-oss", None)),
        *(
            pytest.param(kind, padding, marks=pytest.mark.matrix)
            for kind, paddings in {
                "llama": [None],
                "gpt-oss": [[0, 17]],
                "gemma2": [None, [0, 17]],
                "phi3": [None, [0, 17]],
            }.items()
            for padding in paddings
        ),
    ],
)
def test_every_way_of_choosing_tokens(ranks: RankPool, kind: str, padding: list[int] | None) -> None:
    says_the_same(ranks, 4, kind, [*jobs.GENERATIONS], padding)


def test_one_rank(ranks: RankPool) -> None:
    says_the_same(ranks, 1, "qwen3", [*jobs.GENERATIONS], [5, 0])


def says_the_same(ranks: RankPool, world: int, kind: str, names: list[str], padding: Any) -> None:
    answers = ranks.run(world, jobs.generations, kind, names, padding, timeout=300)
    assert [{name for name, (same, _) in answer.items() if not same} for answer in answers] == [set()] * world
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("kind", "world"),
    [
        *(("llama", 2), ("qwen2", 3), ("gemma3", 2), ("qwen3-moe", 3)),
        *(
            pytest.param(kind, world, marks=pytest.mark.matrix)
            for kind, world in (("llama", 3), ("qwen2", 2), ("gemma3", 3), ("qwen3-moe", 2))
        ),
    ],
)
def test_three_turns_on_one_cache(ranks: RankPool, kind: str, world: int) -> None:
    for same, held, allowed in ranks.run(world, jobs.chat, kind):
        assert same
        assert all(count <= most for count, most in zip(held, allowed, strict=True))


def test_a_cache_is_changed_saved_and_loaded(ranks: RankPool, tmp_path: Any) -> None:
    for errors in ranks.run(3, jobs.cache_errors, str(tmp_path)):
        assert {what: error for what, error in errors.items() if not error <= 1e-5} == {}


def test_a_cache_outlasts_inference_mode(ranks: RankPool, tmp_path: Any) -> None:
    for errors in ranks.run(2, jobs.errors_after_inference_mode, str(tmp_path)):
        assert {what: error for what, error in errors.items() if not error <= 1e-5} == {}


def test_streamers_criteria_and_results(ranks: RankPool) -> None:
    for rank, found in enumerate(ranks.run(3, jobs.ways_of_generating)):
        assert found["tokens"]
        assert found["logits"] <= 1e-5
        assert found["streamed"]
        assert found["stopped"] == 24
        assert found["lone"] == (3 if rank == 0 else 0)
        assert found["cached"] == 26


def test_what_would_be_wrong_is_refused(ranks: RankPool) -> None:
    expected = {
        "labels": "a loss over shards would leave out",
        "attentions": "no rank has all attention weights",
        "embeddings": "pass input_ids",
        "their cache": "whose keys lie on one rank: pass model.tokenring.cache()",
        "packed": "several documents in one row",
        "mask": "has to be of two dimensions",
        "short mask": "attention_mask has 8 columns, and there are 0 cached and 9 new tokens",
        "static cache": "cache_implementation='static' keeps all keys on one rank",
        "assistant": "assistant_model was passed to generate",
        "other tokens": "input_ids is a tensor (1, 9)",
        "other prompt": "all ranks generate one text together, but inputs is",
        "other length": "max_new_tokens is 2 on rank 0 and 3 on rank 1",
        "invalid": "cannot be used with beam search",
        "again": "made parallel before",
        "degree": "tokenring_degree=7 is 7 ranks, and 2 were started",
        "prefill": "rings",
        "alone": "call tokenring_xdit.parallelize(model, tokenring_degree=N)",
        "linear": "layers of linear_attention, which is not sharded",
        "unknown": "models of type gpt2 were not compared",
        "training": "call model.eval()",
        "still works": "11",
    }
    for said in ranks.run(2, jobs.refusals):
        assert {name: said.get(name) for name, text in expected.items() if text not in said.get(name, "")} == {}


def test_a_rank_that_fails_is_named_on_all(ranks: RankPool) -> None:
    first, second, third = ranks.run(3, jobs.fails_on_the_way)
    for said in (first, second):
        assert said.startswith("CommunicationError")
        assert "rank 2" in said
        assert "out of luck" in said
    assert third == "RuntimeError: out of luck"
