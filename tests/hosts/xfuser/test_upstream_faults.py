"""Each fault of xfuser 0.7.0 that is repaired under TokenRing: still there without, gone with the repairs.

When one of the first kind fails, upstream has fixed the fault: drop the repair that is named.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.hosts.xfuser import jobs, stepping, upstreams
from tests.hosts.xfuser.generation import Case
from tests.hosts.xfuser.matrix import PROMPTS
from tests.hosts.xfuser.stepping import Use
from tests.support.ranks import RankFailure, RankPool

EXACT = 1e-5
VISIBLE = 1e-4


@dataclass(frozen=True)
class Fault:
    """One fault, as a generation that shows it.

    Attributes:
        repair: Name of the function that repairs it, beside the family's record or in ``hosts/xfuser/repairs``.
        family: Key of the family.
        inputs: Options of the call.
        make: Options of the pipeline.
        raises: Part of the error, where upstream raises; else its output differs.
        degree: Ranks.
        use: What else the generation is, as in :class:`Use`.
        rarely: Whether only the matrix runs it, as other cases show the same fault.
    """

    repair: str
    family: str
    inputs: dict[str, Any] = field(default_factory=dict)
    make: dict[str, Any] = field(default_factory=dict)
    raises: str | None = None
    degree: int = 2
    use: dict[str, Any] = field(default_factory=dict)
    rarely: bool = False

    def spread(self, strategy: str, **options: Any) -> Use:
        """The generation, with ``ring`` or ``ulysses``."""
        case = Case(self.family, **{strategy: self.degree}, inputs=self.inputs, make=self.make, **options)
        return Use(case, **self.use)


SEVEN_BY_ELEVEN = {"height": 28, "width": 44}
VIDEO = {"height": 112, "width": 176, "frames": 1}


STOCHASTIC = {"scheduler": "FlowMatchEulerDiscreteScheduler", "options": {"stochastic_sampling": True}}
THRESHOLDING = {
    "scheduler": "DPMSolverMultistepScheduler",
    "options": {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 100.0},
}


def half_a_lora(argument: str) -> dict[str, Any]:
    """A LoRA at half of its strength for the call."""
    return {"lora": True, "call": {argument: {"scale": 0.5}}}


FAULTS = [
    Fault("count_replicated_text_once", "flux-runner", {"text_tokens": 17}),
    Fault("take_any_number_of_image_tokens", "flux-runner", SEVEN_BY_ELEVEN, raises="_pad_to_sp_divisible"),
    Fault("pad_the_picture", "flux", SEVEN_BY_ELEVEN, raises="not divisible by the number of sequence"),
    Fault("take_any_number_of_tokens", "flux2", SEVEN_BY_ELEVEN),
    Fault("attend_the_image_alone", "sd3.5-medium", raises="UnboundLocalError"),
    Fault("attend_over_time_locally", "latte"),
    Fault("leave_padding_out", "wan-t2v", VIDEO),
    Fault("leave_padding_and_masked_text_out", "qwen-image", SEVEN_BY_ELEVEN),
    Fault("leave_padding_and_masked_text_out", "qwen-image", {"prompts": PROMPTS}),
    Fault("leave_padding_and_masked_tokens_out", "z-image", {"prompts": ["a red fox in the snow " * 6, "a boat"]}),
    Fault("leave_padding_and_masked_tokens_out", "z-image", SEVEN_BY_ELEVEN, {"heads": 6}, degree=3, rarely=True),
    Fault("take_any_size_and_mask_text", "hunyuan-video", {"prompts": PROMPTS}),
    Fault("step_on_the_whole_picture", "hunyuan-dit"),
    Fault("step_on_the_whole_picture", "cogvideox", rarely=True),
    Fault("step_on_the_whole_picture", "pixart-sigma", {"steps": 4}, use=THRESHOLDING, rarely=True),
    Fault("step_on_the_whole_picture", "sd3", use=STOCHASTIC),
    Fault(
        "step_on_the_whole_picture", "hunyuan-dit", make={"scheduler": "ddim"}, use={"call": {"eta": 1.0}}, rarely=True
    ),
    Fault(
        "step_on_the_whole_picture",
        "cogvideox",
        {"steps": 4},
        use={"scheduler": "EulerAncestralDiscreteScheduler"},
        raises="no attribute 'module'",
    ),
    Fault("make_one_call_of_all_ranks", "sd3", use={"seeded": False}),
    Fault("show_callbacks_the_whole_picture", "sd3", use={"callback": "contrast"}),
    Fault("denoise_without_guidance", "sd3", {"prompts": PROMPTS, "guidance_scale": 1.0}, raises="size of tensor"),
    Fault("scale_lora_for_the_call", "wan-t2v", use=half_a_lora("attention_kwargs")),
    Fault("scale_lora_for_the_call", "hunyuan-video", use=half_a_lora("attention_kwargs"), rarely=True),
    Fault("scale_lora_for_the_call", "z-image", use=half_a_lora("joint_attention_kwargs"), rarely=True),
    Fault("modulate_own_tokens", "qwen-edit-2511", raises="must match the size", rarely=True),
    Fault("leave_padding_and_masked_text_out", "hunyuan-video-1.5", VIDEO, rarely=True),
    Fault("leave_padding_and_masked_text_out", "hunyuan-video-1.5", {"prompts": PROMPTS}, rarely=True),
    Fault("leave_padding_out", "wan-vace", {**VIDEO, "frames": 9}, rarely=True),
    Fault("leave_padding_and_masked_text_out", "krea2", SEVEN_BY_ELEVEN, rarely=True),
    Fault("leave_padding_out", "ltx2", {"height": 224, "width": 352}, rarely=True),
    Fault("leave_padding_and_short_prompts_out", "ideogram4", SEVEN_BY_ELEVEN, rarely=True),
    Fault(
        "take_prompts_of_different_length",
        "ideogram4",
        {"prompts": PROMPTS},
        raises="equal token lengths",
        rarely=True,
    ),
    Fault("leave_padding_out", "cosmos3", raises="unexpected keyword argument 'return_dict'", rarely=True),
    Fault("scale_lora_for_the_call", "wan-vace", use=half_a_lora("attention_kwargs"), rarely=True),
    Fault("scale_lora_for_the_call", "krea2", use=half_a_lora("attention_kwargs"), rarely=True),
    Fault("scale_lora_for_the_call", "hunyuan-video-1.5", use=half_a_lora("attention_kwargs"), rarely=True),
]

REFUSED = [
    Fault(
        "refuse_guidance_of_one", "pixart-alpha", use={"call": {"guidance_scale": 1.0}}, raises="is invalid for input"
    ),
    Fault("refuse_guidance_of_one", "cogvideox", use={"call": {"guidance_scale": 1.0}}, raises="expected Tensor"),
    Fault("refuse_guidance_of_one", "hunyuan-dit", use={"call": {"guidance_scale": 1.0}}),
    Fault("refuse_rescaled_guidance", "hunyuan-dit", use={"call": {"guidance_rescale": 0.5}}),
    Fault("refuse_dropped_arguments", "flux", use={"call": {"true_cfg_scale": 2.0, "negative_prompt": "a boat"}}),
]
"""Those that are refused instead."""


def _parameters(faults: list[Fault], *, often: bool = True) -> list[Any]:
    return [
        pytest.param(
            fault,
            id=f"{fault.repair}-{fault.family}",
            marks=() if often and not fault.rarely else pytest.mark.matrix,
        )
        for fault in faults
    ]


def worst(ranks: RankPool, use: Use) -> float:
    errors = ranks.run(use.case.ranks, stepping.error, use, timeout=300)
    found = max(error for error in errors if error is not None)
    print(f"{use}: {found:.1e}")
    return found


@pytest.mark.parametrize("strategy", ["ring", pytest.param("ulysses", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("fault", [*_parameters(FAULTS), *_parameters(REFUSED, often=False)])
def test_the_fault_is_still_there(ranks: RankPool, fault: Fault, strategy: str) -> None:
    if fault.raises is not None:
        with pytest.raises(RankFailure, match=fault.raises):
            worst(ranks, fault.spread(strategy))
    else:
        assert worst(ranks, fault.spread(strategy)) > VISIBLE


@pytest.mark.parametrize("strategy", ["ulysses", pytest.param("ring", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("fault", _parameters(FAULTS))
def test_the_switch_repairs_other_strategies_too(ranks: RankPool, fault: Fault, strategy: str) -> None:
    if strategy == "ring" and "prompts" in fault.inputs:
        pytest.skip("prompts that hide different keys need keys that stay at home")
    assert worst(ranks, fault.spread(strategy, repair_all=True)) <= EXACT


@pytest.mark.matrix
@pytest.mark.parametrize("fault", _parameters(FAULTS))
def test_tokenring_is_exact(ranks: RankPool, fault: Fault) -> None:
    assert worst(ranks, fault.spread("tokenring")) <= EXACT


@pytest.mark.family("z-image")
def test_z_image_still_hides_its_parameters() -> None:
    """``build_the_configured_model``: the constructor itself takes ``**kwargs`` and nothing else."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser.model_executor.models.transformers.transformer_z_image import xFuserZImageTransformer2DWrapper

    function = xFuserZImageTransformer2DWrapper.__init__
    code = getattr(function, "__wrapped__", function).__code__
    assert (code.co_argcount, bool(code.co_flags & inspect.CO_VARKEYWORDS)) == (1, True)


@pytest.mark.family("qwen-image")
def test_the_command_still_hands_wan_vace_a_list(ranks: RankPool) -> None:
    """``hand_over_one_prompt``."""
    assert ranks.run(1, upstreams.what_vace_is_handed, 1, ["a boat"]) == [[["a boat"]]]
    assert ranks.run(1, upstreams.what_vace_is_handed, 2, ["a boat"]) == [["a boat"]]
    with pytest.raises(RankFailure, match="2 prompts were given to Wan VACE, whose pipeline takes one"):
        ranks.run(1, upstreams.what_vace_is_handed, 2, PROMPTS)


def test_a_lora_has_its_strength_back_after_a_call_that_raised(ranks: RankPool) -> None:
    """``scale_lora_for_the_call``: upstream leaves it scaled, and the next call scales it once more."""
    for left in ranks.run(2, stepping.lora_strength_after_an_error, Case("qwen-image", tokenring=2), timeout=300):
        assert left == {1.0}
    for left in ranks.run(2, stepping.lora_strength_after_an_error, Case("qwen-image", ring=2), timeout=300):
        assert left == {0.5}


@pytest.mark.parametrize(
    ("backend", "dtype", "kernel"),
    [
        ("CUDNN", torch.float32, "efficient"),
        ("CUDNN", torch.bfloat16, "cudnn"),
        ("SDPA_EFFICIENT", torch.float32, "efficient"),
    ],
)
def test_another_kernel_computes_fp32(ranks: RankPool, backend: str, dtype: torch.dtype, kernel: str) -> None:
    """``compute_fp32``: without the rows that the kernel pads."""
    ((names, shape),) = ranks.run(1, jobs.operators_of_backend, backend, dtype)
    assert names == [f"_scaled_dot_product_{kernel}_attention"]
    assert shape == (2, 3, 70)


@pytest.mark.cuda
def test_cudnn_still_makes_nan_of_fp32(gpu_ranks: RankPool) -> None:
    assert gpu_ranks.run(1, jobs.cudnn_makes_nan_of_fp32) == [True]
