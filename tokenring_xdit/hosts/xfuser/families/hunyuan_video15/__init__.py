"""HunyuanVideo 1.5, from text and from a picture."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_hunyuan_video15"
_WRAPPER = f"{_TRANSFORMER}:xFuserHunyuanVideo15Transformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="HunyuanVideo15Pipeline"), Pipeline(name="HunyuanVideo15ImageToVideoPipeline")),
    shapes={"hunyuan-video-1.5": ModelShape(16, 128, calls=54, text=256, frames=4)},
    wrapper=_WRAPPER,
    # Not xFuserHunyuanvideo15SparseModel, whose attention is that of a kernel for sparse blocks.
    runners=("xFuserHunyuanvideo15DistilledModel", "xFuserHunyuanvideo15Model"),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserHunyuanVideo15Transformer3DWrapper.forward",
            "told about padding and masked text",
            (
                "hidden_states",
                "encoder_attention_mask",
                "encoder_attention_mask_2",
                "image_embeds",
            ),
        ),
    ),
)
