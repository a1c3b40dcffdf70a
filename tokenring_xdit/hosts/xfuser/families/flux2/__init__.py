"""FLUX.2, and klein."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_flux2"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="Flux2Pipeline", references=True), Pipeline(name="Flux2KleinPipeline", references=True)),
    shapes={"flux2": ModelShape(48, 128, calls=56, text=512)},
    wrapper=f"{_TRANSFORMER}:xFuserFlux2Transformer2DWrapper",  # calls diffusers' own forward, which scales a LoRA
    runners=("xFuserFlux2Model", "xFuserFlux2Klein4BModel", "xFuserFlux2Klein9BModel"),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserFlux2Transformer2DWrapper.forward",
            "given padded text, told about padding",
            ("hidden_states", "encoder_hidden_states", "txt_ids"),
        ),
    ),
)
