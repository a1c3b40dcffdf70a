"""FLUX.1: text takes part in attention, in front of the picture, and is cut too."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("FluxAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="FluxTransformer2DModel",
    compared=(
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxKontextPipeline",
        "FluxKontextInpaintPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
    ),
    spread={"transformer_blocks.*.attn": _PROCESSORS, "single_transformer_blocks.*.attn": _PROCESSORS},
    control={
        "controlnet_block_samples": Split(1, 3),
        "controlnet_single_block_samples": Split(1, 3),
        "controlnet_blocks_repeat": None,
    },
    refused=("controlnet_blocks_repeat",),  # of ControlNets of XLabs'
)
