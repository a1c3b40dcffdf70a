"""CogView4: text is in front of the picture; positions are the picture's alone."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="CogView4Pipeline", multiple=16),),
    transformer="CogView4Transformer2DModel",
    compared=(),
    spread={"transformer_blocks.*.attn1": ("CogView4AttnProcessor",)},
    plan={
        "transformer_blocks.*": {
            "hidden_states": Split(1, once=True),
            "encoder_hidden_states": Split(1, once=True),
            "image_rotary_emb": Split(0),
        },
        "proj_out": Gather(1),
    },
    refused=("attention_mask",),
)
