"""Which pipelines TokenRing may run in: those that were compared with the single process, and no others."""

from __future__ import annotations

import functools
from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.integrations.xfuser.choice import choice_of

__all__ = ["HOOKS", "TESTED_PIPELINES"]

TESTED_PIPELINES = frozenset({"FluxPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline", "StableDiffusion3Pipeline"})
"""Names of diffusers pipelines; ``tests/integrations/xfuser`` compares each of them."""


def refuse_untested_pipelines(runtime_state: Any) -> None:
    """Refuse other pipelines when xfuser makes its runtime state for one, before anything is computed.

    xfuser 0.7.0 shards several models in ways that are wrong for some lengths; until a model has been
    compared with the single process it may be one of them.
    """
    state = runtime_state.DiTRuntimeState
    original = state._check_model_and_parallel_config

    @functools.wraps(original)
    def check(self: Any, pipeline: Any, parallel_config: Any) -> None:
        if choice_of(parallel_config) is not None:
            _refuse_untested(pipeline)
        original(self, pipeline, parallel_config)

    state._check_model_and_parallel_config = check


def _refuse_untested(pipeline: Any) -> None:
    name = type(pipeline).__name__
    if name not in TESTED_PIPELINES:
        raise UnsupportedError(
            f"TokenRing was asked for in {name}, where it has not been compared with the single process yet. "
            f"Tested so far: {', '.join(sorted(TESTED_PIPELINES))}. Use ulysses_degree or ring_degree for it"
        )
    if getattr(pipeline.transformer.config, "dual_attention_layers", None):
        raise UnsupportedError(
            f"this {name} has dual attention layers (SD3.5 medium), which xfuser 0.7 cannot shard with any strategy: "
            "its attention processor leaves joint_strategy unbound for them. Use SD3 or SD3.5 large, or a single rank"
        )


HOOKS = {"xfuser.core.distributed.runtime_state": refuse_untested_pipelines}
