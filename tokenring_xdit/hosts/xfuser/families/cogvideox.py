"""CogVideoX."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, OwnPipeline, Shares, TokenCut, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="CogVideoXPipeline", multiple=8),),
    shapes={
        "cogvideox-2b": ModelShape(30, 64, calls=30, text=226, frames=4),
        "cogvideox-5b": ModelShape(48, 64, calls=42, text=226, frames=4),
    },
    cut=TokenCut(
        transformer="CogVideoXTransformer3DModel",
        blocks=("transformer_blocks",),
        whole_again="norm_final",
        attention={"attn1": ("CogVideoXAttnProcessor2_0", "FusedCogVideoXAttnProcessor2_0")},
        other_attention={},
        joint_text=True,
        text_first=True,
        rotary="image_rotary_emb",
    ),
    own=(
        OwnPipeline(
            runs="CogVideoXPipeline",
            module="pipeline_cogvideox",
            name="xFuserCogVideoXPipeline",
            shares=Shares.ROWS,
            guidance_of_one=False,
        ),
    ),
    lora={TRANSFORMERS + "cogvideox_transformer_3d:xFuserCogVideoXTransformer3DWrapper": "attention_kwargs"},
)
