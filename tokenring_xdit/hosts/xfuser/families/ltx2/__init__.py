"""LTX-2, 2.3 and 2.5."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_ltx2"
_WRAPPER = f"{_TRANSFORMER}:xFuserLTX2VideoTransformer3DWrapper"
_ATTENTION = ("attn", "hidden_states", "encoder_hidden_states", "attention_mask", "query_rotary_emb", "key_rotary_emb")

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(name="LTX2Pipeline", multiple=32),
        Pipeline(name="LTX2ImageToVideoPipeline", multiple=32, needs_picture=True),
    ),
    wrapper=_WRAPPER,
    runners=(
        "xFuserLTX23VideoModel",
        "xFuserLTX25DistilledVideoModel",
        "xFuserLTX25FullVideoModel",
        "xFuserLTX2VideoModel",
    ),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(_TRANSFORMER, "xFuserLTX2VideoTransformer3DWrapper.forward", "told about padding", ("hidden_states",)),
        *(
            ReliedOn(_TRANSFORMER, f"xFuserLTX2{kind}AttnProcessor.__call__", "gathers keys for sound", _ATTENTION)
            for kind in ("AudioVideo", "Perturbed")
        ),
    ),
)
