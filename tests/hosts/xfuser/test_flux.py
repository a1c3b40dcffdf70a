"""Flux through xfuser on real gloo ranks, against the unmodified single-process diffusers pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

from tests.hosts.xfuser import jobs
from tests.hosts.xfuser.jobs import FluxCase
from tests.support.ranks import RankFailure, RankPool
from tokenring_xdit.parallel import ParallelDims

TOLERANCE = 1e-5
EVEN = {"height": 96, "width": 64}  # 24 x 16 tokens
ODD = {"height": 100, "width": 60}  # 25 x 15 tokens: neither rows nor tokens divide by 2 or 4
DEGREES = [(2, 1), (3, 1), (4, 1), (2, 2)]


def worst(ranks: RankPool, case: FluxCase) -> float:
    error = max(ranks.run(case.tokenring * case.ulysses * case.ring, jobs.flux_error, case, timeout=300))
    print(f"{case}: {error:.1e}")
    return error


def of_all_lengths() -> Iterator[Any]:
    """Every pipeline with every degree, each with lengths of a kind; all four kinds with the matrix."""
    kinds = [*product((12, 13), (EVEN, ODD))]
    for at, pipeline in enumerate(("xfuser", "diffusers")):
        for number, degrees in enumerate(DEGREES):
            for kind, (text_tokens, size) in enumerate(kinds):
                often = kind == (3 - number if at else number)
                name = f"{'even' if size is EVEN else 'odd'}-image-{text_tokens}-{pipeline}-{degrees}"
                case = FluxCase(pipeline, *degrees, text_tokens=text_tokens, **size)
                yield pytest.param(case, id=name, marks=() if often else pytest.mark.matrix)


@pytest.mark.parametrize("case", of_all_lengths())
def test_tokenring_is_exact(ranks: RankPool, case: FluxCase) -> None:
    assert worst(ranks, case) <= TOLERANCE


@pytest.mark.parametrize(
    "schedule",
    ["ring", "mesh", *(pytest.param(s, marks=pytest.mark.matrix) for s in ("direct:chunks=3", "bidirectional_q"))],
)
def test_other_schedules_are_exact(ranks: RankPool, schedule: str) -> None:
    assert worst(ranks, FluxCase(tokenring=3, schedule=schedule, text_tokens=13, **ODD)) <= TOLERANCE


@pytest.mark.parametrize("schedule", ["token_ring", "direct:chunks=2"])
def test_tokenring_inside_nodes_and_a_ring_between_them_is_exact(ranks: RankPool, schedule: str) -> None:
    assert worst(ranks, FluxCase(tokenring=2, ring=2, schedule=schedule, text_tokens=13, **ODD)) <= TOLERANCE


@pytest.mark.parametrize(("tokenring", "ulysses"), [(2, 1), (2, 2)])
def test_a_batch_and_embedded_guidance(ranks: RankPool, tokenring: int, ulysses: int) -> None:
    case = FluxCase("xfuser", tokenring, ulysses, batch=2, guidance=True, text_tokens=13, **ODD)
    assert worst(ranks, case) <= TOLERANCE


@pytest.mark.parametrize(
    ("pipeline", "text_tokens"),
    [
        *(("xfuser", 13), ("diffusers", 12)),
        *(pytest.param(*case, marks=pytest.mark.matrix) for case in (("xfuser", 12), ("diffusers", 13))),
    ],
)
def test_a_rank_may_hold_nothing_but_padding(ranks: RankPool, pipeline: str, text_tokens: int) -> None:
    """Five image tokens on four ranks: 2, 2, 1, 0."""
    case = FluxCase(pipeline, tokenring=4, text_tokens=text_tokens, height=4, width=20)
    assert worst(ranks, case) <= TOLERANCE


def test_sizes_change_in_one_process(ranks: RankPool) -> None:
    """The second size differs from the first in the padding of the last rank only."""
    assert max(ranks.run(4, jobs.errors_of_two_sizes, timeout=300)) <= TOLERANCE


def test_bf16_errs_as_the_single_process_does(ranks: RankPool) -> None:
    """Both are compared with fp32; the distributed one may not be worse by more than half."""
    single, *distributed = ranks.run(2, jobs.bf16_errors, FluxCase(tokenring=2, text_tokens=13, **ODD), timeout=300)[1]
    assert max(distributed) <= 1.5 * single


@pytest.mark.parametrize("strategy", [{"ring": 2}, {"ulysses": 2}], ids=["ring", "ulysses"])
def test_without_tokenring_xfuser_computes_bit_for_bit_what_it_did(ranks: RankPool, strategy: dict[str, int]) -> None:
    assert ranks.run(2, jobs.same_bits_as_unpatched, FluxCase(**strategy, **EVEN), timeout=300) == [True, True]


def test_the_seam_is_used(ranks: RankPool) -> None:
    """Queries and partial outputs travel under TokenRing; nothing of ours does under Ring."""
    sent = ranks.run(2, jobs.bytes_by_strategy, timeout=300)[0]
    assert sent["tokenring"] > 0
    assert sent["ring, as our sends"] == 0


def test_states_take_turns_in_one_process(ranks: RankPool) -> None:
    errors = ranks.run(4, jobs.errors_of_alternating_states, timeout=300)
    assert max(errors) <= TOLERANCE


def test_states_share_their_groups(ranks: RankPool) -> None:
    """On gloo each is a thread that wakes up all the time, and xfuser would make about forty of them a state."""
    degrees = [
        ParallelDims(ulysses=2, ring=2),
        ParallelDims(ulysses=2, ring=2),
        ParallelDims(tokenring=4),
        ParallelDims(ulysses=4),
    ]
    for first, *others in ranks.run(4, jobs.groups_of_states, degrees, timeout=300):
        assert first <= 5  # the world by two names, a rank by itself, those that share heads, those that share tokens
        assert others == [first] * 3


def test_what_tokenring_does_not_carry_is_refused(ranks: RankPool) -> None:
    for messages in ranks.run(2, jobs.refusals_at_the_seam, timeout=300):
        assert "no dropout" in messages["dropout_p"]
        assert "hides keys through attention_kwargs ['attn_mask']" in messages["attn_mask"]
        assert "returns no log-sum-exp" in messages["no lse"]


def test_the_degrees_must_make_up_the_world(ranks: RankPool) -> None:
    with pytest.raises(RankFailure, match="must be equal to dit_parallel_size 2"):
        ranks.run(2, jobs.flux_error, FluxCase(tokenring=3), timeout=300)


def test_results_are_the_same_on_every_run(ranks: RankPool) -> None:
    case = FluxCase("diffusers", tokenring=3, text_tokens=13, **ODD)
    first, second = (ranks.run(3, jobs.run_flux, case, timeout=300)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_pipelines_that_were_not_compared_are_refused(ranks: RankPool) -> None:
    for message in ranks.run(2, jobs.refusal_of_another_pipeline, timeout=300):
        assert "TokenRing was asked for in SanaPipeline" in message
        assert "Sana's self-attention is linear" in message
