"""One generation through xfuser and the same through unmodified diffusers, on the worker ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.families import ALL_FAMILIES, Entry, Family
from tests.support.ranks import by_the_first, rank_device
from tests.support.reference import relative_error
from tokenring_xdit.hosts.xfuser import XfuserState, parallelize
from tokenring_xdit.hosts.xfuser.repairs.common import REPAIR_ALL


@dataclass(frozen=True)
class Case:
    """One generation.

    Attributes:
        family: Key of :data:`tests.support.families.ALL_FAMILIES`.
        tokenring: TokenRing degree, and so on for the other degrees.
        ulysses: Ulysses degree.
        ring: xfuser's Ring degree.
        cfg: Whether classifier-free guidance runs in parallel.
        pipefusion: PipeFusion degree.
        warmup: Steps that PipeFusion takes in order before its stages work at once, each on another patch.
        data: Data-parallel degree: that many prompts at once.
        schedule: TokenRing schedule.
        repair_all: Whether Ulysses and Ring are repaired too.
        dtype: Of all components.
        handed_in_again: Whether xfuser's pipeline is made known to it a second time, as `xdit` does.
        together: Whether ``parallelize`` spreads the pipeline, as in ``run`` and the engine; else xfuser's own do.
        compile_mode: Mode of ``torch.compile``, for :func:`compiled`.
        make: Options of the pipeline.
        inputs: Options of the call.
        again: What differs in the second generation of :func:`compiled`.
    """

    family: str
    tokenring: int = 1
    ulysses: int = 1
    ring: int = 1
    cfg: bool = False
    pipefusion: int = 1
    warmup: int = 1
    data: int = 1
    schedule: str = "token_ring"
    repair_all: bool = False
    dtype: torch.dtype = torch.float32
    handed_in_again: bool = False
    together: bool = False
    compile_mode: str | None = None
    make: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    again: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Ranks that the degrees make up."""
        return self.tokenring * self.ulysses * self.ring * self.pipefusion * self.data * (2 if self.cfg else 1)


@torch.no_grad()
def error(case: Case) -> float | None:
    """Largest difference to one process, relative to its scale; ``None`` on ranks without an output."""
    family = ALL_FAMILIES[case.family]
    expected = alone(lambda own: one_process(own, family), case)
    actual = run(case, family)
    return None if actual is None else relative_error(actual, expected)


@torch.no_grad()
def latents(case: Case) -> Tensor | None:
    """The latents that xfuser makes; ``None`` on ranks that it gives none."""
    return run(case, ALL_FAMILIES[case.family])


@torch.no_grad()
def rounding_errors(case: Case) -> tuple[float, float] | None:
    """Differences to one process in fp32: of one process in the case's dtype, and of xfuser."""
    family = ALL_FAMILIES[case.family]
    exact = alone(lambda own: one_process(replace(own, dtype=torch.float32), family), case)
    single, actual = alone(lambda own: one_process(own, family), case), run(case, family)
    return None if actual is None else (relative_error(single, exact), relative_error(actual, exact))


def alone(make: Callable[[Case], Tensor], case: Case) -> Tensor:
    """A reference: of all prompts from the first rank, of this rank's share from itself."""
    own = of_this_group(case)
    return make(own) if case.data > 1 else by_the_first(lambda: make(own))


def of_this_group(case: Case) -> Case:
    """The case with what this rank's group draws of it under data parallel: its share of the prompts."""
    if case.data == 1:
        return case
    prompts = case.inputs["prompts"]
    share, group = len(prompts) // case.data, dist.get_rank() * case.data // case.ranks
    return replace(case, inputs={**case.inputs, "prompts": prompts[group * share : (group + 1) * share]})


def one_process(case: Case, family: Family) -> Tensor:
    """The latents that unmodified diffusers makes."""
    latents = latents_of(family.make(**case.make).to(rank_device(), case.dtype)(**arguments(case, family)))
    assert latents is not None
    return latents


def arguments(case: Case, family: Family) -> dict[str, Any]:
    """Those of the call; embeddings that it is given are of the dtype of what would have made them."""
    found = family.inputs(**case.inputs)
    return {name: value.to(case.dtype) if name.endswith("_embeds") else value for name, value in found.items()}


def run(case: Case, family: Family) -> Tensor | None:
    """The latents that xfuser makes."""
    inputs = arguments(case, family)
    if case.together:
        return _together(case, family, inputs)
    with engine(case) as config:
        from xfuser.core.distributed import initialize_runtime_state

        if family.entry is Entry.PIPELINE:
            pipe = family.wrapper_class()(family.make(**case.make).to(rank_device(), case.dtype), config)
            if case.handed_in_again:
                initialize_runtime_state(pipe, config)
        else:
            pipe = with_wrapped_transformer(family, config, case, inputs)
        return latents_of(pipe(**inputs))


def _together(case: Case, family: Family, inputs: dict[str, Any]) -> Tensor | None:
    pipe = family.make(**case.make).to(rank_device(), case.dtype)
    try:
        parallelize(pipe, tokenring_degree=case.tokenring, ulysses_degree=case.ulysses, schedule=case.schedule)
        return latents_of(pipe(**inputs))
    finally:
        forget_xfuser()


@dataclass(frozen=True)
class Compiled:
    """How a compiled transformer did.

    Attributes:
        error: Larger difference of two generations to one process each.
        graphs_after_first: Graphs that were compiled when the first was over.
        graphs_after_second: The same after the second.
    """

    error: float
    graphs_after_first: int
    graphs_after_second: int


@torch.no_grad()
def compiled(case: Case) -> Compiled:
    """Two generations with the transformer compiled as one graph."""
    from torch._dynamo.utils import counters

    family = ALL_FAMILIES[case.family]
    cases = case, replace(case, inputs={**case.inputs, **case.again})
    expected = by_the_first(lambda: [one_process(each, family) for each in cases])
    torch._dynamo.reset()
    counters.clear()
    errors, graphs = [], []
    with engine(case) as config:
        pipe = with_wrapped_transformer(family, config, case, family.inputs(**case.inputs))
        pipe.transformer = torch.compile(pipe.transformer, fullgraph=True, mode=case.compile_mode)
        for each, latents in zip(cases, expected, strict=True):
            errors.append(relative_error(latents_of(pipe(**family.inputs(**each.inputs))), latents))
            graphs.append(counters["stats"]["unique_graphs"])
    return Compiled(max(errors), *graphs)


def with_wrapped_transformer(family: Family, config: Any, case: Case, inputs: Mapping[str, Any]) -> Any:
    """The diffusers pipeline with xfuser's transformer, made as ``xdit`` makes it: the groups come first."""
    from xfuser.core.distributed import get_runtime_state, initialize_runtime_state
    from xfuser.core.distributed.parallel_state import initialize_model_parallel

    parallel = config.parallel_config
    initialize_model_parallel(
        data_parallel_degree=parallel.dp_degree,
        classifier_free_guidance_degree=parallel.cfg_degree,
        ulysses_degree=parallel.ulysses_degree,
        ring_degree=parallel.ring_degree,
        sequence_parallel_degree=parallel.sp_degree,
        pipeline_parallel_degree=parallel.pp_degree,
    )
    pipe = family.make(**case.make).to(rank_device(), case.dtype)
    if family.pipeline_class() is not None:
        pipe.__class__ = family.pipeline_class()
    for name in ("transformer", "transformer_2", "unconditional_transformer"):
        model = getattr(pipe, name, None)
        if model is not None:
            wrapped = family.wrapper_class().from_config(model.config).to(rank_device(), case.dtype).eval()
            wrapped.load_state_dict(model.state_dict())
            for prepare in ("_install_xfuser_processors", "_init_sp_state"):  # as the command does, where there is one
                getattr(wrapped, prepare, lambda: None)()
            setattr(pipe, name, wrapped)
    initialize_runtime_state(pipe, config)
    state = get_runtime_state()
    state.split_text_embed_in_sp, state.max_condition_sequence_length = True, inputs.get("max_sequence_length")
    return pipe


@contextmanager
def engine(case: Case) -> Iterator[Any]:
    """Xfuser with its groups for one job; its globals are cleared afterwards."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser import xFuserArgs
    from xfuser.core.distributed import parallel_state

    parallel_state.init_distributed_environment(rank=dist.get_rank(), world_size=dist.get_world_size())
    args = xFuserArgs(
        model="small",
        ulysses_degree=case.ulysses,
        ring_degree=case.ring,
        use_cfg_parallel=case.cfg,
        pipefusion_parallel_degree=case.pipefusion,
        data_parallel_degree=case.data,
        warmup_steps=case.warmup if case.pipefusion > 1 else 0,
    )
    args.tokenring_degree = case.tokenring
    args.tokenring_schedule = case.schedule
    os.environ[REPAIR_ALL] = str(int(case.repair_all))
    try:
        config, _ = args.create_config()
        config.runtime_config.dtype = case.dtype  # of PipeFusion's buffers
        yield config
    finally:
        del os.environ[REPAIR_ALL]
        forget_xfuser()


def forget_xfuser() -> None:
    """Clear xfuser's globals, so that the next job starts it anew."""
    from xfuser.core.distributed import parallel_state, runtime_state

    with suppress(ValueError):  # of groups that several states share, and that are destroyed already
        parallel_state.destroy_model_parallel()
    XfuserState.forget()
    parallel_state._WORLD = None  # the pool destroys the process group itself
    runtime_state._RUNTIME = None


def latents_of(output: Any) -> Tensor | None:
    """The tensor in a pipeline's output; ``None`` on ranks that xfuser gives none."""
    kinds = ("images", "frames", "video")
    found = next((getattr(output, kind) for kind in kinds if hasattr(output, kind)), None)
    if isinstance(found, list):
        found = None if found[0] is None else torch.stack(found)
    return found
