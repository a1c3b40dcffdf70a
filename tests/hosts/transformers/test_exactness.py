"""Language models over several ranks, against the unmodified model in one process."""

from __future__ import annotations

import pytest

from tests.hosts.transformers import jobs
from tests.hosts.transformers.models import KINDS
from tests.support.ranks import RankPool

TOLERANCE = 1e-5

WORLDS = [3, *(pytest.param(world, marks=pytest.mark.matrix) for world in (1, 2, 4))]


@pytest.mark.smoke
def test_logits_and_turns_of_a_llama_on_two_ranks(ranks: RankPool) -> None:
    every_logit_is_right(ranks, "llama", 2, "balanced")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_all_tokens(ranks: RankPool, kind: str, world: int) -> None:
    every_logit_is_right(ranks, kind, world, "balanced")


@pytest.mark.parametrize(
    ("kind", "prefill"),
    [
        *(("llama", "token_ring"), ("llama", "ring"), ("gpt-oss", "keys"), ("gpt-oss", "queries")),
        *(
            pytest.param(kind, prefill, marks=pytest.mark.matrix)
            for kind, prefills in {
                "llama": ("keys", "queries"),
                "gpt-oss": ("token_ring", "ring"),
                "gemma2": ("keys", "queries", "token_ring", "ring"),
            }.items()
            for prefill in prefills
        ),
    ],
)
def test_what_travels_changes_nothing(ranks: RankPool, kind: str, prefill: str) -> None:
    every_logit_is_right(ranks, kind, 4, prefill)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["llama", "gpt-oss", "phi3"])
def test_eight_ranks(ranks: RankPool, kind: str) -> None:
    every_logit_is_right(ranks, kind, 8, "balanced")


def every_logit_is_right(ranks: RankPool, kind: str, world: int, prefill: str) -> None:
    for errors in ranks.run(world, jobs.logits_errors, kind, prefill, timeout=300):
        assert {case: error for case, error in errors.items() if not error <= TOLERANCE} == {}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("mistral", "no window"),
        ("gpt-oss", "no window"),
        ("gpt-oss", "a sink a shard"),
        ("gemma2", "no cap"),
        ("llama", "padding kept"),
        ("gemma3", "padding kept"),
        ("llama", "places of a shard"),
        ("qwen3", "places of a shard"),
        ("llama", "causal from the top left"),
        ("mistral", "causal from the top left"),
    ],
)
def test_faults_show(ranks: RankPool, kind: str, fault: str) -> None:
    for right, wrong in ranks.run(3, jobs.errors_with_fault, kind, fault):
        assert right <= TOLERANCE
        assert wrong > 100 * TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "gpt-oss"])
def test_no_rank_makes_a_tensor_as_long_as_the_sequence(ranks: RankPool, kind: str) -> None:
    for found in ranks.run(4, jobs.large_tensors, kind, ["balanced", "keys", "queries"]):
        assert len(found) == 6
        assert {case: tensors for case, tensors in found.items() if tensors} == {}


def test_one_process_makes_tensors_as_long_as_the_sequence(ranks: RankPool) -> None:
    """So that the test above can fail."""
    assert all(ranks.run(1, jobs.large_tensors, "llama", ["balanced"])[0].values())


@pytest.mark.parametrize("kind", ["llama", "gpt-oss", "gemma2"])
def test_bf16_rounds_no_more_than_one_process(ranks: RankPool, kind: str) -> None:
    for single, error in ranks.run(3, jobs.bf16_errors, kind):
        assert error <= 2 * single
