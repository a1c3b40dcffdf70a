"""LTX-Video."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("LTXVideoAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(name="LTXPipeline", multiple=32),
        Pipeline(name="LTXImageToVideoPipeline", multiple=32, needs_picture=True),
        Pipeline(name="LTXConditionPipeline", multiple=32),
    ),
    transformer="LTXVideoTransformer3DModel",
    compared=(),
    spread={"transformer_blocks.*.attn1": _PROCESSORS},
    local={"transformer_blocks.*.attn2": _PROCESSORS},
    # without conditions there is one time for all tokens
    # diffusers' plan cuts the text too, whose few keys every rank's many queries would have to reach
    plan={
        "": {"hidden_states": Split(1, 3), "timestep": Split(1, 2, for_all=True)},
        "rope": {0: Split(1, 3), 1: Split(1, 3)},
        "proj_out": Gather(1),
    },
)
