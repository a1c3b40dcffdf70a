"""Causal Wan: a video made chunk by chunk, whose queries see a long cache of keys."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_causal_wan"
_WRAPPER = f"{_TRANSFORMER}:xFuserCausalWanTransformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="xFuserCausalWanPipeline"),),
    wrapper=_WRAPPER,
    runners=("xFuserCausalWanModel",),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserCausalWanTransformer3DWrapper.forward",
            "given this rank's part of a chunk",
            ("hidden_states", "timestep", "attention_kwargs"),
        ),
        ReliedOn(
            _TRANSFORMER,
            "xFuserCausalWanTransformer3DWrapper._compute_rope_with_offset",
            "cut as a chunk is cut",
            ("hidden_states", "start_frame"),
        ),
        ReliedOn(
            _TRANSFORMER,
            "xFuserCausalWanAttnProcessor._cached_self_attention",
            "attends the keys of all ranks",
            ("query", "key", "value", "kv_cache"),
        ),
        ReliedOn(
            "xfuser.model_executor.pipelines.pipeline_causal_wan",
            "xFuserCausalWanPipeline._initialize_kv_cache",
            "allocates nothing yet",
            ("kv_cache_size",),
        ),
        ReliedOn(
            "xfuser.model_executor.models.runner_models.causal_wan",
            "xFuserCausalWanModel._validate_config",
            "refuses what was not compared",
            ("config",),
        ),
    ),
)
