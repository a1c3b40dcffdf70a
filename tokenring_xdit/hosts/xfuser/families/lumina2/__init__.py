"""Lumina-Image 2.0."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, OwnPipeline, Shares, TokenCut, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_lumina2"
_WRAPPER = f"{_TRANSFORMER}:xFuserLumina2Transformer2DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="Lumina2Pipeline"),),
    shapes={"lumina2": ModelShape(24, 96, calls=26, text=256, kv_heads=8, ring=False)},
    cut=TokenCut(
        transformer="Lumina2Transformer2DModel",
        blocks=("layers",),
        whole_again="norm_out",
        attention={"attn": ("Lumina2AttnProcessor2_0",)},
        other_attention={},
        rotary="image_rotary_emb",
        spread=f"{_TRANSFORMER}:xFuserLumina2AttnProcessor2_0",
        real=f"{__name__}.repairs:real_tokens",
    ),
    own=(
        OwnPipeline(
            runs="Lumina2Pipeline",
            module="pipeline_lumina2",
            name="xFuserLumina2Pipeline",
            shares=Shares.WHOLE,
            any_rows=True,
        ),
    ),
    runners=("xFuserLumina2Model",),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserLumina2AttnProcessor2_0.__call__",
            "put into diffusers' own transformer, whose grouped heads it leaves as they are",
        ),
        ReliedOn(
            _TRANSFORMER,
            "xFuserLumina2Transformer2DWrapper.forward",
            "told about padding and masked text",
            ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
        ),
        ReliedOn(_TRANSFORMER, "Lumina2Transformer2DModel", "beside which diffusers has its table of positions"),
        ReliedOn(
            "diffusers.models.transformers.transformer_lumina2",
            "Lumina2RotaryPosEmbed.forward",
            "asked for positions of whole texts in calls that may be recorded",
            ("hidden_states", "attention_mask"),
        ),
        ReliedOn(_TRANSFORMER, "USP", "the module's own reference, given no mask"),
        ReliedOn(_TRANSFORMER, "get_ring_parallel_world_size", "read by the refusal that is lifted"),
    ),
)
