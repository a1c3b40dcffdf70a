"""FLUX.1: text takes part in attention, in front of the picture, and is cut too."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("FluxAttnProcessor",)

_WITH_PICTURES = (*_PROCESSORS, "FluxIPAdapterAttnProcessor")

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(
            name="FluxImg2ImgPipeline", each_prompt=("prompt_2", "negative_prompt_2"), packed=True, needs_picture=True
        ),
        Pipeline(
            name="FluxInpaintPipeline",
            each_prompt=("prompt_2", "negative_prompt_2", "mask_image"),
            packed=True,
            needs_picture=True,
            needs=("mask_image",),
        ),
        Pipeline(
            name="FluxFillPipeline",
            each_prompt=("prompt_2", "mask_image"),
            packed=True,
            needs_picture=True,
            needs=("mask_image",),
        ),
        Pipeline(
            name="FluxKontextInpaintPipeline",
            each_prompt=("prompt_2", "negative_prompt_2", "mask_image", "image_reference"),
            packed=True,
            needs_picture=True,
            needs=("mask_image",),
        ),
        Pipeline(
            name="FluxControlImg2ImgPipeline",
            each_prompt=("prompt_2", "control_image"),
            packed=True,
            needs_picture=True,
            needs=("control_image",),
        ),
        Pipeline(
            name="FluxControlInpaintPipeline",
            each_prompt=("prompt_2", "control_image", "mask_image"),
            packed=True,
            needs_picture=True,
            needs=("control_image", "mask_image"),
        ),
        Pipeline(
            name="FluxControlNetPipeline",
            each_prompt=("prompt_2", "negative_prompt_2", "control_image"),
            image="control_image",
            packed=True,
            needs_picture=True,
        ),
        Pipeline(
            name="FluxControlNetImg2ImgPipeline",
            each_prompt=("prompt_2", "control_image"),
            packed=True,
            needs_picture=True,
            needs=("control_image",),
        ),
        Pipeline(
            name="FluxControlNetInpaintPipeline",
            each_prompt=("prompt_2", "control_image", "mask_image"),
            packed=True,
            needs_picture=True,
            needs=("control_image", "mask_image"),
        ),
    ),
    transformer="FluxTransformer2DModel",
    compared=(
        "FluxPipeline",
        "FluxKontextPipeline",
        "FluxControlPipeline",
    ),
    spread={"transformer_blocks.*.attn": _WITH_PICTURES, "single_transformer_blocks.*.attn": _PROCESSORS},
    control={
        "controlnet_block_samples": Split(1, 3),
        "controlnet_single_block_samples": Split(1, 3),
        "controlnet_blocks_repeat": None,
        "ip_adapter_image_embeds": None,
    },
    whole_keys="ip_hidden_states",
    refused=("controlnet_blocks_repeat",),  # of ControlNets of XLabs'
)
