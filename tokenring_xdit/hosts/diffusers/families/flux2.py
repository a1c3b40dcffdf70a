"""FLUX.2."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="Flux2KleinInpaintPipeline", needs_picture=True, needs=("mask_image",)),),
    transformer="Flux2Transformer2DModel",
    compared=("Flux2Pipeline", "Flux2KleinPipeline"),
    spread={
        "transformer_blocks.*.attn": ("Flux2AttnProcessor",),
        "single_transformer_blocks.*.attn": ("Flux2ParallelSelfAttnProcessor",),
    },
    refused=("kv_cache", "kv_cache_mode"),
)
