"""Cosmos 3, Super and Nano."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_cosmos3"

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(name="Cosmos3OmniPipeline", one_prompt=True),
        Pipeline(name="xFuserCosmos3OmniPipeline", one_prompt=True),  # as `xdit` makes it
    ),
    wrapper=f"{_TRANSFORMER}:get_cosmos3_transformer_wrapper_class",
    runners=("xFuserCosmos3NanoModel", "xFuserCosmos3SuperModel"),
    repairs=f"{__name__}.repairs",
    left_out={
        "k_norm_und_for_gen": (
            "Cosmos 3 with use_und_k_norm_for_gen was asked for, whose norm of the text's keys xfuser leaves out",
            "use a checkpoint without it, or diffusers in one process",
        ),
    },
    relied_on=(
        ReliedOn(_TRANSFORMER, "_make_xfuser_cosmos3_transformer_wrapper", "told about padding"),
        ReliedOn(
            _TRANSFORMER,
            "USP",
            "handed text as joint tensors",
            ("query", "key", "value", "joint_query", "joint_key", "joint_value", "joint_strategy"),
        ),
        ReliedOn(_TRANSFORMER, "attention", "handed as many heads of keys as of queries", ("query", "key", "value")),
    ),
)
