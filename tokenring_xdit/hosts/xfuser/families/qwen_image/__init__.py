"""Qwen-Image and Qwen-Image-Edit."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_qwen"
_WRAPPER = f"{_TRANSFORMER}:xFuserQwenImageTransformerWrapper"

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(name="QwenImagePipeline"),
        Pipeline(name="QwenImageEditPipeline", needs_picture=True),
        Pipeline(name="QwenImageEditPlusPipeline", needs_picture=True, references=True, one_prompt=True),
        Pipeline(
            name="xFuserQwenImageEditPipeline", needs_picture=True
        ),  # as `xdit` makes it, of all three checkpoints
    ),
    shapes={"qwen-image": ModelShape(24, 128, calls=60, text=512)},
    wrapper=_WRAPPER,
    runners=("xFuserQwenImageEditModel", "xFuserQwenImageModel"),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserQwenImageTransformerWrapper.forward",
            "told about padding and masked text",
            ("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask"),
        ),
        ReliedOn(
            "diffusers.models.transformers.transformer_qwenimage",
            "QwenImageTransformerBlock._modulate",
            "given this rank's part of which tokens are noise",
            ("x", "mod_params", "index"),
        ),
    ),
)
