"""Qwen-Image: each rank hides the keys that its part of the prompts' mask hides."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="QwenImageTransformer2DModel",
    compared=("QwenImagePipeline",),
    spread={"transformer_blocks.*.attn": ("QwenDoubleStreamAttnProcessor2_0",)},
)
