"""Qwen-Image."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, LoraScale, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER, _WRAPPER = "transformer_qwen", "xFuserQwenImageTransformerWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="QwenImagePipeline"),),
    shapes={"qwen-image": ModelShape(24, 128, calls=60, text=512)},
    wrapper=f"{TRANSFORMERS}{_TRANSFORMER}:{_WRAPPER}",
    runners=("xFuserQwenImageModel",),
    lora=(LoraScale(_TRANSFORMER, _WRAPPER, "attention_kwargs"),),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            TRANSFORMERS + _TRANSFORMER,
            f"{_WRAPPER}.forward",
            "told about padding and masked text",
            ("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask"),
        ),
    ),
)
