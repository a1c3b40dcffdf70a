"""Qwen-Image: each rank hides the keys that its part of the prompts' mask hides."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Split

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="QwenImageTransformer2DModel",
    compared=(
        "QwenImagePipeline",
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
        "QwenImageEditPipeline",
        "QwenImageEditInpaintPipeline",
        "QwenImageEditPlusPipeline",
        "QwenImageControlNetPipeline",
        "QwenImageControlNetInpaintPipeline",
    ),
    spread={"transformer_blocks.*.attn": ("QwenDoubleStreamAttnProcessor2_0",)},
    control={"controlnet_block_samples": Split(1, 3)},
)
