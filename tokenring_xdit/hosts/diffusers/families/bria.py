"""Bria: text in front of the picture, as in FLUX.1, and no mask."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("BriaAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="BriaPipeline"),),
    transformer="BriaTransformer2DModel",
    compared=(),
    spread={"transformer_blocks.*.attn": _PROCESSORS, "single_transformer_blocks.*.attn": _PROCESSORS},
    plan={
        "": {
            "hidden_states": Split(1, 3),
            "encoder_hidden_states": Split(1, 3),
            "img_ids": Split(0, 2),
            "txt_ids": Split(0, 2),
        },
        "proj_out": Gather(1),
    },
)
