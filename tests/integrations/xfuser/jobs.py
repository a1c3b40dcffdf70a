"""What the worker ranks run in the xfuser tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from tests.support.models import flux_inputs, flux_pipeline
from tests.support.reference import relative_error


@dataclass(frozen=True)
class FluxCase:
    """One Flux generation."""

    pipeline: str = "xfuser"  # xFuserFluxPipeline, or "diffusers": FluxPipeline with xfuser's transformer
    tokenring: int = 1
    ulysses: int = 1
    ring: int = 1
    schedule: str = "token_ring"
    text_tokens: int = 12
    height: int = 96
    width: int = 64
    batch: int = 1
    guidance: bool = False
    dtype: torch.dtype = torch.float32


@contextmanager
def engine(case: FluxCase) -> Iterator[Any]:
    """Xfuser with its groups for one job; its globals are cleared afterwards."""
    from tokenring_xdit.integrations.xfuser import register

    register()
    from xfuser import xFuserArgs
    from xfuser.core.distributed import parallel_state
    from xfuser.core.distributed.parallel_state import init_distributed_environment

    init_distributed_environment(rank=dist.get_rank(), world_size=dist.get_world_size())
    args = xFuserArgs(model="small", ulysses_degree=case.ulysses, ring_degree=case.ring, warmup_steps=0)
    args.tokenring_degree = case.tokenring
    args.tokenring_schedule = case.schedule
    try:
        config, _ = args.create_config()
        yield config
    finally:
        parallel_state.destroy_model_parallel()
        parallel_state._WORLD = None  # the pool destroys the process group itself
        from xfuser.core.distributed import runtime_state

        runtime_state._RUNTIME = None


@torch.no_grad()
def run_flux(case: FluxCase) -> torch.Tensor | None:
    """Latents of one generation through xfuser."""
    inputs = flux_inputs(text_tokens=case.text_tokens, height=case.height, width=case.width, batch=case.batch)
    _cast(inputs, case.dtype)
    with engine(case) as config:
        from xfuser import xFuserFluxPipeline
        from xfuser.core.distributed import get_runtime_state, initialize_runtime_state
        from xfuser.model_executor.models.transformers.transformer_flux import xFuserFlux1Transformer2DWrapper

        if case.pipeline == "xfuser":
            pipe = xFuserFluxPipeline(flux_pipeline(guidance=case.guidance).to(case.dtype), config)
        else:
            # as xfuser/model_executor/models/runner_models/flux.py does it; the groups exist before the model
            initialize_groups(config)
            pipe = flux_pipeline(guidance=case.guidance, transformer_class=xFuserFlux1Transformer2DWrapper).to(
                case.dtype
            )
            initialize_runtime_state(pipe, config)
            get_runtime_state().set_input_parameters(
                batch_size=case.batch,
                num_inference_steps=3,
                max_condition_sequence_length=case.text_tokens,
                split_text_embed_in_sp=True,
            )
        output = pipe(**inputs)
        return None if output is None else output.images


def initialize_groups(config: Any) -> None:
    """Xfuser's process groups, as its runner makes them."""
    from xfuser.core.distributed.parallel_state import initialize_model_parallel

    parallel = config.parallel_config
    initialize_model_parallel(
        ulysses_degree=parallel.ulysses_degree,
        ring_degree=parallel.ring_degree,
        sequence_parallel_degree=parallel.sp_degree,
    )


def _cast(inputs: dict[str, Any], dtype: torch.dtype) -> None:
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        inputs[name] = inputs[name].to(dtype)


@torch.no_grad()
def flux_error(case: FluxCase) -> float:
    """Largest difference to the unmodified single-process diffusers pipeline, relative to its scale."""
    inputs = flux_inputs(text_tokens=case.text_tokens, height=case.height, width=case.width, batch=case.batch)
    _cast(inputs, case.dtype)
    expected = flux_pipeline(guidance=case.guidance).to(case.dtype)(**inputs).images
    actual = run_flux(case)
    return 0.0 if actual is None else relative_error(actual, expected)
