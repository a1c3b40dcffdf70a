"""LTX-2."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_ltx2"
_WRAPPER = f"{_TRANSFORMER}:xFuserLTX2VideoTransformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="LTX2Pipeline"),),
    wrapper=_WRAPPER,
    runners=("xFuserLTX2VideoModel",),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserLTX2VideoTransformer3DWrapper.forward",
            "refuses sizes that would be padded",
            ("hidden_states",),
        ),
    ),
)
