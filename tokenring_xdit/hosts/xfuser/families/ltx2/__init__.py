"""LTX-2."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, LoraScale, XfuserFamily

__all__ = ["FAMILY"]

_TRANSFORMER, _WRAPPER = "transformer_ltx2", "xFuserLTX2VideoTransformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="LTX2Pipeline"),),
    wrapper=f"{TRANSFORMERS}{_TRANSFORMER}:{_WRAPPER}",
    runners=("xFuserLTX2VideoModel",),
    lora=(LoraScale(_TRANSFORMER, _WRAPPER, "attention_kwargs"),),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            TRANSFORMERS + _TRANSFORMER,
            f"{_WRAPPER}.forward",
            "refuses sizes that would be padded",
            ("hidden_states",),
        ),
    ),
)
