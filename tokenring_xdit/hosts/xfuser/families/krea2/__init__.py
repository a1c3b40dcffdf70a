"""Krea 2."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_krea2"
_WRAPPER = f"{_TRANSFORMER}:xFuserKrea2Transformer2DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="Krea2Pipeline"),),
    shapes={"krea-2": ModelShape(48, 128, calls=28, text=512)},
    wrapper=_WRAPPER,
    runners=("xFuserKrea2RawModel", "xFuserKrea2TurboModel"),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserKrea2Transformer2DWrapper.forward",
            "told about padding and masked text",
            ("hidden_states", "encoder_hidden_states", "encoder_attention_mask"),
        ),
        ReliedOn(
            _TRANSFORMER,
            "xFuserKrea2AttnProcessor.__call__",
            "handed no mask of all ranks' keys",
            ("attn", "hidden_states", "attention_mask"),
        ),
        ReliedOn(_TRANSFORMER, "make_attn_mask_with_meta", "the module's own reference, which makes no mask"),
        ReliedOn(_TRANSFORMER, "Krea2Transformer2DModel", "whose parameters the wrapper hides"),
    ),
)
