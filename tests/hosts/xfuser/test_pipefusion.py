"""PipeFusion beside the matrix: what is refused together with TokenRing, and the faults of xfuser's that it is for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.hosts.xfuser import generation
from tests.hosts.xfuser.generation import Case
from tests.hosts.xfuser.matrix import four_steps
from tests.hosts.xfuser.test_matrix import last_latents
from tests.support.families import FAMILIES
from tests.support.ranks import RankFailure, RankPool
from tests.support.reference import relative_error
from tokenring_xdit.errors import UnsupportedError


def staged(family: str, **options: object) -> Case:
    """Two stages that work on several patches at once after the first step."""
    return replace(Case(family, pipefusion=2, inputs=four_steps(FAMILIES[family], 4)), **options)  # type: ignore[arg-type]


def refusal(ranks: RankPool, case: Case) -> str:
    with pytest.raises(RankFailure) as failure:
        ranks.run(case.ranks, generation.error, case, timeout=300)
    (said,) = {str(error) for error in failure.value.errors}
    assert all(isinstance(error, UnsupportedError) for error in failure.value.errors)
    return said


def test_rows_have_to_divide_by_patches(ranks: RankPool) -> None:
    """Flux without PipeFusion takes any size."""
    case = staged("flux", tokenring=3, inputs={"height": 32, "width": 24, "steps": 4})
    assert "a height of 32 pixels cannot be cut over 3 ranks" in refusal(ranks, case)


@pytest.mark.parametrize("family", ["flux2"])
def test_families_that_were_not_compared_with_it_are_refused(ranks: RankPool, family: str) -> None:
    assert "PipeFusion together with TokenRing was not compared for Flux2Pipeline" in refusal(
        ranks, Case(family, tokenring=2, pipefusion=2)
    )


@pytest.mark.matrix
def test_xfuser_cannot_run_the_patches_of_sd3_at_once(ranks: RankPool) -> None:
    """Fails when upstream has fixed it: then the refusal may go."""
    with pytest.raises(RankFailure, match="expanded size of the tensor"):
        ranks.run(2, generation.latents, staged("sd3"), timeout=300)


@pytest.mark.matrix
def test_xfuser_mixes_up_the_patches_of_hunyuan_dit(ranks: RankPool) -> None:
    """Fails when upstream has fixed it: then the refusal may go."""
    alone, with_ring = (last_latents(ranks, staged("hunyuan-dit", ring=ring)) for ring in (1, 2))
    assert relative_error(with_ring, alone) > 0.1
