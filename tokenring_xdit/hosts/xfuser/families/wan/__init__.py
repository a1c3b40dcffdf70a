"""Wan 2.1 and 2.2."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_wan"
_WRAPPER = f"{_TRANSFORMER}:xFuserWanTransformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(name="WanPipeline", multiple=16),
        Pipeline(name="WanImageToVideoPipeline", multiple=16, each_prompt=("last_image",)),
        Pipeline(name="xFuserWanImageToVideoPipeline", each_prompt=("last_image",)),  # as `xdit` makes it
    ),
    shapes={
        "wan-1.3b": ModelShape(12, 128, calls=30, text=0, frames=4),
        "wan-14b": ModelShape(40, 128, calls=40, text=0, frames=4),
    },
    wrapper=_WRAPPER,
    runners=(
        "xFuserWan21I2VModel",
        "xFuserWan21T2VModel",
        "xFuserWan22DistilledI2VModel",
        "xFuserWan22I2VModel",
        "xFuserWan22T2VModel",
        "xFuserWan22TI2VModel",
    ),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(_TRANSFORMER, "xFuserWanTransformer3DWrapper.forward", "told about padding", ("hidden_states",)),
    ),
)
