"""MiniMax-H3's transformer over ranks, as the `xdit` command uses it, against diffusers' in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.hosts.xfuser import packed
from tests.hosts.xfuser.generation import Case
from tests.support.ranks import RankFailure, RankPool

pytestmark = pytest.mark.family("cosmos3")  # which needs as new a diffusers

TOLERANCE = 1e-5

SIZES: tuple[dict[str, Any], ...] = (
    {},
    {"grid": (2, 3, 7)},  # all real tokens are those of the first of three ranks
    {"references": 30},
    {"words": 8, "sound": 0, "grid": (1, 7, 8)},  # 64 tokens
)


@pytest.mark.parametrize(
    "degrees",
    [
        {"tokenring": 3},
        pytest.param({"tokenring": 2}, marks=pytest.mark.matrix),
        pytest.param({"tokenring": 2, "ulysses": 2}, marks=pytest.mark.matrix),
        pytest.param({"tokenring": 4, "schedule": "direct"}, marks=pytest.mark.matrix),
    ],
    ids=str,
)
def test_any_size_equals_one_process(ranks: RankPool, degrees: dict[str, Any]) -> None:
    case = Case("minimax-h3", **degrees)
    for found in ranks.run(case.ranks, packed.errors, case, *SIZES, timeout=300):
        for size, (error, _) in zip(SIZES, found, strict=True):
            print(f"{degrees}, {size}: {error:.1e}")
            assert error <= TOLERANCE


@pytest.mark.matrix
def test_in_bf16_ranks_err_as_one_does(ranks: RankPool) -> None:
    case = Case("minimax-h3", tokenring=2, dtype=torch.bfloat16)
    for ((error, single),) in ranks.run(2, packed.errors, case, {}, timeout=300):
        print(f"{error:.1e}, one process {single:.1e}")
        assert error <= 2 * single


@pytest.mark.matrix
def test_padding_that_is_seen_shows(ranks: RankPool) -> None:
    for error in ranks.run(2, packed.error_with_padding_seen, Case("minimax-h3", tokenring=2), timeout=300):
        assert error > 100 * TOLERANCE


@pytest.mark.matrix
def test_upstream_still_cuts_over_ulysses_alone(ranks: RankPool) -> None:
    """``cut_over_all_ranks``."""
    with pytest.raises(RankFailure, match="must be divisible by Ulysses degree 3"):
        ranks.run(3, packed.errors, Case("minimax-h3", ulysses=3), {"grid": (2, 3, 7)}, timeout=300)
