"""HunyuanVideo."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_hunyuan_video"
_WRAPPER = f"{_TRANSFORMER}:xFuserHunyuanVideoTransformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="HunyuanVideoPipeline", multiple=16, each_prompt=("prompt_2", "negative_prompt_2")),),
    shapes={"hunyuan-video": ModelShape(24, 128, calls=60, text=256, frames=4)},
    wrapper=_WRAPPER,
    runners=("xFuserHunyuanvideoModel",),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserHunyuanVideoTransformer3DWrapper.forward",
            "given more frames, told about padding and masked text",
            ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
        ),
        ReliedOn(_TRANSFORMER, "HunyuanVideoTransformer3DModel", "beside which diffusers has the refiner of text"),
        ReliedOn(
            "diffusers.models.transformers.transformer_hunyuan_video",
            "HunyuanVideoTokenRefiner.forward",
            "handed the mask that the wrapper is not",
            ("hidden_states", "timestep", "attention_mask"),
        ),
    ),
)
