"""CogVideoX: text takes part in attention and is cut too; positions are the video's alone."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(name="CogVideoXImageToVideoPipeline", multiple=8),
        Pipeline(name="CogVideoXVideoToVideoPipeline", multiple=8, needs=("video",)),
    ),
    transformer="CogVideoXTransformer3DModel",
    compared=("CogVideoXPipeline", "CogVideoXFunControlPipeline"),
    spread={"transformer_blocks.*.attn1": ("CogVideoXAttnProcessor2_0", "FusedCogVideoXAttnProcessor2_0")},
    plan={
        "transformer_blocks.*": {
            "hidden_states": Split(1, once=True),
            "encoder_hidden_states": Split(1, once=True),
            "image_rotary_emb": Split(0),
        },
        "proj_out": Gather(1),
    },
)
