"""FLUX.1: text takes part in attention, in front of the picture, and is cut too."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily

__all__ = ["FAMILY"]

_PROCESSORS = ("FluxAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="FluxTransformer2DModel",
    compared=("FluxPipeline", "FluxControlPipeline"),
    spread={"transformer_blocks.*.attn": _PROCESSORS, "single_transformer_blocks.*.attn": _PROCESSORS},
)
