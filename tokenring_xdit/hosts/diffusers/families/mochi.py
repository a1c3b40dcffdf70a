"""Mochi: each item of a batch is attended by itself, with the text that its mask leaves of it."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="MochiPipeline", multiple=8),),
    transformer="MochiTransformer3DModel",
    compared=(),
    spread={"transformer_blocks.*.attn1": ("MochiAttnProcessor2_0",)},
    plan={
        "transformer_blocks.*": {
            "hidden_states": Split(1, once=True),
            "encoder_hidden_states": Split(1, once=True),
            "encoder_attention_mask": Split(1),
            "image_rotary_emb": Split(0),
        },
        "proj_out": Gather(1),
    },
    each_item=True,
)
