"""Ideogram 4, whose guidance has a transformer of its own."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import PIPELINES, TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(name="Ideogram4Pipeline"),
        Pipeline(name="xFuserIdeogram4Pipeline"),  # as `xdit` makes it
    ),
    shapes={"ideogram-4": ModelShape(18, 256, calls=34, text=512)},
    wrapper=f"{TRANSFORMERS}transformer_ideogram4:get_ideogram4_transformer_wrapper_class",
    runners=("xFuserIdeogram4Model",),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            TRANSFORMERS + "transformer_ideogram4",
            "_make_xfuser_ideogram4_transformer_wrapper",
            "told about padding, and which tokens are text",
        ),
        ReliedOn(
            PIPELINES + "pipeline_ideogram4",
            "_make_xfuser_ideogram4_pipeline_class",
            "takes prompts of different length",
        ),
    ),
)
