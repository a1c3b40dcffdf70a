"""Schedulers and callbacks in xfuser's own pipelines under TokenRing: as in one process, or refused in one sentence.

The ranks' global generators differ, as they do in every program that does not seed them.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts.xfuser import stepping
from tests.hosts.xfuser.generation import Case
from tests.hosts.xfuser.matrix import PROMPTS
from tests.hosts.xfuser.stepping import Use
from tests.support.ranks import RankFailure, RankPool
from tokenring_xdit.errors import AgreementError, TokenRingError, UnsupportedError

EXACT = 1e-5

SEVEN_BY_ELEVEN = {"height": 28, "width": 44}
STOCHASTIC = ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True})
LCM = ("FlowMatchLCMScheduler", {})
SDE = ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"})
SDE_ONE = ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"})
THRESHOLDING = (
    "DPMSolverMultistepScheduler",
    {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 100.0},
)
ANCESTRAL = ("EulerAncestralDiscreteScheduler", {})
DDIM = {"make": {"scheduler": "ddim"}}
IN_ORDER = {"pipefusion": 2, "warmup": 4}
PATCHES = {"pipefusion": 2, "warmup": 1}


def use(
    family: str,
    scheduler: tuple[str, dict[str, Any]] | None = None,
    *,
    inputs: dict[str, Any] | None = None,
    degrees: dict[str, Any] | None = None,
    make: dict[str, Any] | None = None,
    **others: Any,
) -> Use:
    """Four steps on two ranks, or on as many as the degrees ask for."""
    case = Case(family, inputs={"steps": 4, **(inputs or {})}, make=make or {}, **{"tokenring": 2, **(degrees or {})})
    name, options = scheduler or (None, {})
    return Use(case, scheduler=name, options=options, **others)


QUICK = {
    "sd3": use("sd3", STOCHASTIC),
    "lumina2": use("lumina2", STOCHASTIC),
    "flux, padded": use("flux", LCM, inputs=SEVEN_BY_ELEVEN, seeded=False),
    "pixart, thresholding": use("pixart-sigma", THRESHOLDING),
    "pixart, exchanged": use("pixart-sigma", SDE, swapped=True),
    "hunyuan-dit, eta": use("hunyuan-dit", call={"eta": 1.0}, **DDIM),
    "sd3, callback": use("sd3", callback="contrast"),
    "flux, padded, callback": use("flux", inputs=SEVEN_BY_ELEVEN, callback="contrast in place"),
    "pixart, callback": use("pixart-alpha", callback="legacy contrast"),
    "sd3, no guidance": use("sd3", inputs={"prompts": PROMPTS}, call={"guidance_scale": 0.0}),
}

REST = {
    "sd3, LCM": use("sd3", LCM, seeded=False),
    "sd3.5-medium": use("sd3.5-medium", STOCHASTIC),
    "flux": use("flux", STOCHASTIC),
    "flux-control": use("flux-control", STOCHASTIC),
    "pixart, LCM": use("pixart-alpha", ("LCMScheduler", {})),
    "pixart, ancestral": use("pixart-sigma", ANCESTRAL, swapped=True),
    "pixart, single-step SDE": use("pixart-sigma", SDE_ONE),
    "pixart, Heun": use("pixart-sigma", ("HeunDiscreteScheduler", {})),
    "pixart, UniPC": use("pixart-sigma", ("UniPCMultistepScheduler", {})),
    "hunyuan-dit, ancestral": use("hunyuan-dit", ANCESTRAL, **DDIM),
    "hunyuan-dit, LCM": use("hunyuan-dit", ("LCMScheduler", {}), **DDIM),
    "hunyuan-dit, unseeded": use("hunyuan-dit", seeded=False),
    "latte, ancestral": use("latte", ANCESTRAL),
    "latte, eta": use("latte", ("DDIMScheduler", {}), call={"eta": 1.0}),
    "cogvideox, DDIM": use("cogvideox", ("CogVideoXDDIMScheduler", {}), call={"eta": 1.0}),
    "cogvideox, exchanged": use("cogvideox", ANCESTRAL, swapped=True),
    "two images": use("sd3", STOCHASTIC, inputs={"images_per_prompt": 2}),
    "Ulysses 2": use("pixart-sigma", SDE, degrees={"ulysses": 2}),
    "CFG 2": use("pixart-sigma", SDE, degrees={"cfg": True}, seeded=False),
    "CFG 2, sd3": use("sd3", STOCHASTIC, degrees={"cfg": True}),
    "CFG 2, lumina2": use("lumina2", STOCHASTIC, degrees={"cfg": True}),
    "CFG 2, callback": use("sd3", callback="contrast", degrees={"cfg": True}),
    "data parallel 2": use("sd3", STOCHASTIC, degrees={"data": 2}, inputs={"prompts": PROMPTS}, call={}),
    "stages in order": use("pixart-sigma", SDE, degrees=IN_ORDER),
    "stages in order, DDPM": use("hunyuan-dit", degrees=IN_ORDER),
    "stages in order, flux": use("flux", STOCHASTIC, degrees=IN_ORDER),
    "stages in order, no guidance": use(
        "sd3", inputs={"prompts": PROMPTS}, call={"guidance_scale": 1}, degrees=IN_ORDER
    ),
    **{f"{family}, callback": use(family, callback="contrast") for family in ("flux-control", "latte", "lumina2")},
    "hunyuan-dit, callback": use("hunyuan-dit", callback="contrast"),
    "cogvideox, callback": use("cogvideox", callback="contrast"),
}


@pytest.mark.parametrize("title", [*QUICK, *(pytest.param(title, marks=pytest.mark.matrix) for title in REST)], ids=str)
def test_the_picture_is_that_of_one_process(ranks: RankPool, title: str) -> None:
    work = {**QUICK, **REST}[title]
    found = [error for error in ranks.run(work.case.ranks, stepping.error, work, timeout=300) if error is not None]
    print(f"{title}: {max(found):.1e}")
    assert max(found) <= EXACT


@pytest.mark.parametrize(
    ("family", "inputs", "whole"),
    [
        ("flux", SEVEN_BY_ELEVEN, (1, 77, 16)),
        ("sd3", {}, (1, 4, 16, 24)),
        pytest.param("latte", {}, (1, 4, 4, 16, 12), marks=pytest.mark.matrix),
    ],
)
def test_callbacks_see_the_whole_picture(
    ranks: RankPool, family: str, inputs: dict[str, int], whole: tuple[int, ...]
) -> None:
    work = use(family, inputs=inputs, callback="contrast")
    assert ranks.run(2, stepping.shapes_seen, work, timeout=300) == [{whole}] * 2


REFUSED = {
    "guidance_scale=1.0 was asked for": use("pixart-alpha", call={"guidance_scale": 1.0}),
    "guidance_scale=0.0 was asked for": use("hunyuan-dit", call={"guidance_scale": 0.0}),
    "guidance_scale=1 was asked for": use("cogvideox", call={"guidance_scale": 1}),
    "guidance_rescale=0.5 was asked for": use("hunyuan-dit", call={"guidance_rescale": 0.5}),
    "true_cfg_scale=2.0 was asked for": use("flux", call={"true_cfg_scale": 2.0}),
    "max_sequence_length=16 was asked for": use("sd3", call={"max_sequence_length": 16}),
    "no_such_thing=3 was asked for": use("sd3", call={"no_such_thing": 3}),
    "of latents, prompt_embeds only latents": use("sd3", callback="embeddings"),
    "changed _guidance_scale": use("sd3", callback="guidance"),
    "in PipeFusion it would see": use("sd3", callback="contrast", degrees=IN_ORDER),
    "adds noise to the whole picture": use("pixart-sigma", SDE, degrees=PATCHES),
    "looks at the whole picture": use("pixart-sigma", THRESHOLDING, degrees=PATCHES),
    "LCMScheduler was asked for together with PipeFusion": use("pixart-sigma", ("LCMScheduler", {}), degrees=IN_ORDER),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_xfuser_computes_wrongly_is_refused(ranks: RankPool, said: str) -> None:
    errors = refusals(ranks, REFUSED[said])
    assert {type(error) for error in errors} == {UnsupportedError}
    (sentence,) = {str(error) for error in errors}
    assert said in sentence
    assert "tokenring_xdit.parallelize" in sentence


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (use("sd3", of_each_rank=True), "generator is"),
        (use("sd3", callback="contrast of this rank"), "latents differs"),
        (use("sd3", callback="interrupt"), "interrupt differs"),
    ],
    ids=["generator", "callback", "interrupt"],
)
def test_ranks_that_do_not_agree_are_refused(ranks: RankPool, work: Use, said: str) -> None:
    for error in refusals(ranks, work):
        assert isinstance(error, AgreementError)
        assert said in str(error)


def refusals(ranks: RankPool, work: Use) -> list[TokenRingError]:
    """What each rank raises."""
    with pytest.raises(RankFailure) as failure:
        ranks.run(work.case.ranks, stepping.generate, work, timeout=300)
    assert all(isinstance(error, TokenRingError) for error in failure.value.errors)
    return failure.value.errors  # type: ignore[return-value]
