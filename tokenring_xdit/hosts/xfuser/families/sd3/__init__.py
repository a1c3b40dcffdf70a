"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import (
    PIPELINES,
    PROCESSORS,
    TRANSFORMERS,
    OwnPipeline,
    Shares,
    TokenCut,
    XfuserFamily,
)
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_PROCESSORS = ("JointAttnProcessor2_0", "FusedJointAttnProcessor2_0")

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(
            name="StableDiffusion3Pipeline",
            each_prompt=("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3"),
        ),
    ),
    shapes={
        "sd3": ModelShape(24, 64, calls=24, text=333),
        "sd3.5-medium": ModelShape(24, 64, calls=24, text=333),
        "sd3.5-large": ModelShape(38, 64, calls=38, text=333),
    },
    cut=TokenCut(
        transformer="SD3Transformer2DModel",
        blocks=("transformer_blocks",),
        whole_again="norm_out",
        attention={"attn": _PROCESSORS, "attn2": _PROCESSORS},
        other_attention={},
        joint_text=True,
        without_text=("attn2",),
    ),
    own=(
        OwnPipeline(
            runs="StableDiffusion3Pipeline",
            module="pipeline_stable_diffusion_3",
            name="xFuserStableDiffusion3Pipeline",
            shares=Shares.ROWS,
            stages=True,
            patches=False,
        ),
    ),
    runners=("xFuserStableDiffusionModel",),
    lora={TRANSFORMERS + "transformer_sd3:xFuserSD3Transformer2DWrapper": "joint_attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            PROCESSORS,
            "xFuserJointAttnProcessor2_0.__call__",
            "replaced where there is no text",
            ("attn", "hidden_states", "encoder_hidden_states"),
        ),
        ReliedOn(
            PIPELINES + "pipeline_stable_diffusion_3",
            "xFuserStableDiffusion3Pipeline._backbone_forward",
            "given one prompt's embeddings where there is no guidance",
            ("latents", "encoder_hidden_states", "pooled_prompt_embeds", "t"),
        ),
    ),
)
