"""Latte."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import PROCESSORS, OwnPipeline, Shares, TokenCut, XfuserFamily

__all__ = ["FAMILY"]

_PLAIN = ("AttnProcessor2_0", "FusedAttnProcessor2_0")

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="LattePipeline", multiple=8, spellings={"frames": "video_length"}),),
    cut=TokenCut(
        transformer="LatteTransformer3DModel",
        blocks=("transformer_blocks",),
        whole_again="norm_out",
        attention={"attn1": _PLAIN},
        other_attention={"attn2": _PLAIN},
        local_blocks=("temporal_transformer_blocks",),
    ),
    own=(OwnPipeline(runs="LattePipeline", module="pipeline_latte", name="xFuserLattePipeline", shares=Shares.ROWS),),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(PROCESSORS, "USP", "the module's own reference, replaced by the repair"),
        ReliedOn(
            PROCESSORS, "xFuserAttnProcessor2_0.__call__", "attends over time locally", ("latte_temporal_attention",)
        ),
        ReliedOn(
            "xfuser.model_executor.layers.usp", "attention", "local attention, over frames", ("query", "key", "value")
        ),
    ),
)
