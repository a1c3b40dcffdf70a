"""Qwen-Image: each rank hides the keys that its part of the prompts' mask hides."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Split

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(name="QwenImageImg2ImgPipeline", needs_picture=True),
        Pipeline(
            name="QwenImageInpaintPipeline", each_prompt=("mask_image",), needs_picture=True, needs=("mask_image",)
        ),
        Pipeline(
            name="QwenImageEditInpaintPipeline", each_prompt=("mask_image",), needs_picture=True, needs=("mask_image",)
        ),
        Pipeline(
            name="QwenImageControlNetPipeline",
            each_prompt=("control_image",),
            image="control_image",
            needs_picture=True,
        ),
        Pipeline(
            name="QwenImageControlNetInpaintPipeline",
            each_prompt=("control_image", "control_mask"),
            image="control_image",
            needs_picture=True,
            needs=("control_mask",),
        ),
    ),
    transformer="QwenImageTransformer2DModel",
    compared=(
        "QwenImagePipeline",
        "QwenImageEditPipeline",
        "QwenImageEditPlusPipeline",
    ),
    spread={"transformer_blocks.*.attn": ("QwenDoubleStreamAttnProcessor2_0",)},
    control={"controlnet_block_samples": Split(1, 3)},
)
