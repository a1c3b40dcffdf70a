"""Each fault of xfuser 0.7.0 that is repaired under TokenRing: still there without, gone with the repairs.

When one of the first kind fails, upstream has mended the fault: drop the repair that is named.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.integrations.xfuser import generation, jobs
from tests.integrations.xfuser.generation import Case
from tests.integrations.xfuser.matrix import PROMPTS
from tests.support.ranks import RankFailure, RankPool

EXACT = 1e-5
VISIBLE = 1e-4


@dataclass(frozen=True)
class Fault:
    """One fault, as a generation that shows it.

    Attributes:
        repair: Name of the function that mends it, in ``tokenring_xdit/integrations/xfuser/repairs``.
        family: Key of the family.
        inputs: Options of the call.
        make: Options of the pipeline.
        raises: Part of the error, where upstream raises; else its output differs.
        degree: Ranks.
    """

    repair: str
    family: str
    inputs: dict[str, Any] = field(default_factory=dict)
    make: dict[str, Any] = field(default_factory=dict)
    raises: str | None = None
    degree: int = 2

    def case(self, strategy: str, **options: Any) -> Case:
        """The generation, with ``ring`` or ``ulysses``."""
        return Case(self.family, **{strategy: self.degree}, inputs=self.inputs, make=self.make, **options)


SEVEN_BY_ELEVEN = {"height": 28, "width": 44}
VIDEO = {"height": 112, "width": 176, "frames": 1}

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
    Fault("leave_padding_and_masked_tokens_out", "z-image", SEVEN_BY_ELEVEN, {"heads": 6}, degree=3),
    Fault("take_any_size_and_mask_text", "hunyuan-video", {"prompts": PROMPTS}),
    Fault("draw_noise_for_the_whole_picture", "hunyuan-dit"),
    Fault("draw_noise_for_the_whole_picture", "cogvideox"),
]

IDS = [f"{fault.repair}-{fault.family}" for fault in FAULTS]


def worst(ranks: RankPool, case: Case) -> float:
    found = max(error for error in ranks.run(case.ranks, generation.error, case, timeout=300) if error is not None)
    print(f"{case}: {found:.1e}")
    return found


@pytest.mark.parametrize("strategy", ["ring", pytest.param("ulysses", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_the_fault_is_still_there(ranks: RankPool, fault: Fault, strategy: str) -> None:
    if fault.raises is not None:
        with pytest.raises(RankFailure, match=fault.raises):
            worst(ranks, fault.case(strategy))
    else:
        assert worst(ranks, fault.case(strategy)) > VISIBLE


@pytest.mark.parametrize("strategy", ["ulysses", pytest.param("ring", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_the_switch_repairs_other_strategies_too(ranks: RankPool, fault: Fault, strategy: str) -> None:
    if strategy == "ring" and "prompts" in fault.inputs:
        pytest.skip("prompts that hide different keys need keys that stay at home")
    assert worst(ranks, fault.case(strategy, repair_all=True)) <= EXACT


@pytest.mark.matrix
@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_tokenring_is_exact(ranks: RankPool, fault: Fault) -> None:
    assert worst(ranks, fault.case("tokenring")) <= EXACT


def test_z_image_still_hides_its_parameters() -> None:
    """``build_the_configured_model``: the constructor itself takes ``**kwargs`` and nothing else."""
    from tokenring_xdit.integrations.xfuser import register

    register()
    from xfuser.model_executor.models.transformers.transformer_z_image import xFuserZImageTransformer2DWrapper

    function = xFuserZImageTransformer2DWrapper.__init__
    code = getattr(function, "__wrapped__", function).__code__
    assert (code.co_argcount, bool(code.co_flags & inspect.CO_VARKEYWORDS)) == (1, True)


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
