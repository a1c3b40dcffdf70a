"""Other families than Flux through their xfuser pipelines, against the unmodified single process."""

from __future__ import annotations

import pytest

from tests.integrations.xfuser import jobs
from tests.integrations.xfuser.jobs import FamilyCase
from tests.support.ranks import RankFailure, RankPool

TOLERANCE = 1e-5


def worst(ranks: RankPool, case: FamilyCase) -> float:
    error = max(ranks.run(case.tokenring * case.ulysses * case.ring, jobs.family_error, case, timeout=300))
    print(f"{case}: {error:.1e}")
    return error


@pytest.mark.parametrize("text_tokens", [12, 13], ids=["even-text", "odd-text"])
@pytest.mark.parametrize(("tokenring", "ulysses"), [(2, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize("family", ["sd3", "pixart-alpha", "pixart-sigma"])
def test_tokenring_is_exact(ranks: RankPool, family: str, tokenring: int, ulysses: int, text_tokens: int) -> None:
    assert worst(ranks, FamilyCase(family, tokenring, ulysses, text_tokens=text_tokens)) <= TOLERANCE


@pytest.mark.parametrize("family", ["sd3", "pixart-alpha"])
def test_a_batch_is_exact(ranks: RankPool, family: str) -> None:
    assert worst(ranks, FamilyCase(family, tokenring=2, batch=3, text_tokens=13)) <= TOLERANCE


@pytest.mark.parametrize("family", ["sd3", "pixart-alpha"])
def test_rows_that_do_not_divide_are_refused_by_upstream(ranks: RankPool, family: str) -> None:
    with pytest.raises(RankFailure, match="not divisible by the number of sequence parallel devices"):
        worst(ranks, FamilyCase(family, tokenring=3))


def test_dual_attention_is_refused(ranks: RankPool) -> None:
    with pytest.raises(RankFailure, match="leaves joint_strategy unbound"):
        worst(ranks, FamilyCase("sd3.5-medium", tokenring=2))


def test_the_upstream_fault_with_dual_attention_is_still_there(ranks: RankPool) -> None:
    """When this fails, upstream has mended it: drop the refusal."""
    with pytest.raises(RankFailure, match="UnboundLocalError"):
        worst(ranks, FamilyCase("sd3.5-medium", ring=2))
