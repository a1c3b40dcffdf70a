"""MiniMax-H3, from text, frames and references, and FastH3 with dense attention."""

from __future__ import annotations

from tokenring_xdit.hosts.base import ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_minimax_h3"
_WRAPPER = f"{_TRANSFORMER}:xFuserMiniMaxH3Transformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(),
    # Of the reference workflow xfuser hands in a namespace that holds the transformer, and no pipeline.
    by_command=("MiniMaxH3ModularPipeline", "SimpleNamespace"),
    shapes={"minimax-h3": ModelShape(56, 128, calls=50, text=512, frames=4)},
    wrapper=_WRAPPER,
    runners=("xFuserFastH3DenseModel", "xFuserMiniMaxH3Model", "xFuserMiniMaxH3Ref2VAModel"),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserMiniMaxH3Transformer3DWrapper.forward",
            "told about padding",
            ("position_ids",),
        ),
        ReliedOn(_TRANSFORMER, "MINIMAX_H3_PACKED_SEQUENCE_ALIGNMENT", "a multiple of the ranks meanwhile"),
        ReliedOn(_TRANSFORMER, "get_ulysses_parallel_world_size", "counts all ranks that share the sequence"),
        ReliedOn(_TRANSFORMER, "get_ulysses_parallel_rank", "counts among them"),
    ),
)
