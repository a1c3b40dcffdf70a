"""Chroma: text in front of the picture, as in FLUX.1; its mask of 0 and 1 is added to the scores, as diffusers does."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("FluxAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="ChromaPipeline"), Pipeline(name="ChromaImg2ImgPipeline", needs_picture=True)),
    transformer="ChromaTransformer2DModel",
    compared=(),
    spread={"transformer_blocks.*.attn": _PROCESSORS, "single_transformer_blocks.*.attn": _PROCESSORS},
    plan={
        "": {
            "hidden_states": Split(1, 3),
            "encoder_hidden_states": Split(1, 3),
            "img_ids": Split(0, 2),
            "txt_ids": Split(0, 2),
            "attention_mask": Split(1, parts=("encoder_hidden_states", "hidden_states")),
        },
        "proj_out": Gather(1),
    },
    pair_masks=True,
)
