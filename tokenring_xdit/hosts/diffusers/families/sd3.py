"""Stable Diffusion 3 and 3.5: no plan of diffusers'; the first block may be left out, by skipped layers."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("JointAttnProcessor2_0", "FusedJointAttnProcessor2_0")

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(
            name="StableDiffusion3Img2ImgPipeline",
            each_prompt=("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3"),
            needs_picture=True,
        ),
        Pipeline(
            name="StableDiffusion3InpaintPipeline",
            each_prompt=("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3", "mask_image"),
            needs_picture=True,
            needs=("mask_image",),
        ),
        Pipeline(
            name="StableDiffusion3ControlNetPipeline",
            multiple=8,
            each_prompt=("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3", "control_image"),
            image="control_image",
            needs_picture=True,
        ),
        Pipeline(
            name="StableDiffusion3ControlNetInpaintingPipeline",
            each_prompt=(
                "prompt_2",
                "prompt_3",
                "negative_prompt_2",
                "negative_prompt_3",
                "control_image",
                "control_mask",
            ),
            image="control_image",
            needs_picture=True,
            needs=("control_mask",),
        ),
    ),
    transformer="SD3Transformer2DModel",
    compared=("StableDiffusion3Pipeline",),
    spread={"transformer_blocks.*.attn": _PROCESSORS, "transformer_blocks.*.attn2": _PROCESSORS},
    plan={
        "transformer_blocks.*": {
            "hidden_states": Split(1, once=True),
            "encoder_hidden_states": Split(1, once=True),
        },
        "proj_out": Gather(1),
    },
    control={"block_controlnet_hidden_states": Split(1, 3)},
)
