"""Calls of ``USP`` out of the ordinary: masked sequences, grouped keys, text that every rank holds."""

from __future__ import annotations

import pytest

from tests.hosts.xfuser import generation, jobs
from tests.hosts.xfuser.generation import Case
from tests.hosts.xfuser.jobs import FluxCase
from tests.support.ranks import RankFailure, RankPool

TOLERANCE = 1e-5

MASKED = {"prompts": ["a red fox in the snow", "a boat"]}
"""Two lengths of text, so that one of the two sequences has hidden keys."""


def test_ring_refuses_masked_sequences(ranks: RankPool) -> None:
    """Fails when xfuser has learned it: then the repair of Lumina 2 may go."""
    with pytest.raises(RankFailure) as failure:
        ranks.run(2, generation.error, Case("lumina2", ring=2, inputs=MASKED), timeout=300)
    for error in failure.value.errors:
        assert isinstance(error, NotImplementedError)
        assert "Ring attention needs per-step masks" in str(error)


def test_tokenring_takes_masked_sequences(ranks: RankPool) -> None:
    case = Case("lumina2", tokenring=2, inputs=MASKED)
    assert max(e for e in ranks.run(2, generation.error, case, timeout=300) if e is not None) <= TOLERANCE


def test_tokenring_takes_any_height_of_them(ranks: RankPool) -> None:
    """Eight rows on three ranks, with the pipeline made known twice: the second time hides which one it is."""
    case = Case("lumina2", tokenring=3, handed_in_again=True)
    assert max(e for e in ranks.run(3, generation.error, case, timeout=300) if e is not None) <= TOLERANCE


@pytest.mark.parametrize(("degrees", "heads"), [({"tokenring": 2}, 4), ({"tokenring": 2, "ulysses": 2}, 2)])
@pytest.mark.parametrize("schedule", ["token_ring", "ring"])
def test_grouped_keys_are_not_expanded_before_a_kernel_meets_them(
    ranks: RankPool, degrees: dict[str, int], heads: int, schedule: str
) -> None:
    case = FluxCase(schedule=schedule, **degrees)
    for grouped in ranks.run(case.tokenring * case.ulysses, jobs.grouped_heads, case, timeout=300):
        assert grouped.error <= TOLERANCE
        assert grouped.heads == heads


def test_ring_gets_them_expanded(ranks: RankPool) -> None:
    """What the others are compared with: xfuser's Ring moves every key once for each query that shares it."""
    for grouped in ranks.run(2, jobs.grouped_heads, FluxCase(ring=2), timeout=300):
        assert (grouped.error <= TOLERANCE, grouped.heads) == (True, 8)


@pytest.mark.parametrize("degrees", [{"tokenring": 3}, {"tokenring": 2, "ulysses": 2}])
@pytest.mark.parametrize("strategy", ["front", "rear"])
def test_text_that_every_rank_holds_counts_once(ranks: RankPool, degrees: dict[str, int], strategy: str) -> None:
    case = FluxCase(**degrees)
    assert max(ranks.run(case.tokenring * case.ulysses, jobs.joint_error, case, strategy, timeout=300)) <= TOLERANCE
