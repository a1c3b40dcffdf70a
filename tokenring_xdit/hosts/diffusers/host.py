"""Diffusers as a host: its own cuts, TokenRing's attention; nothing else is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist

from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.agreement import agree_on_arguments, noting
from tokenring_xdit.hosts.calls import Output, join_world, spread_over_ranks, taken_back
from tokenring_xdit.hosts.changes import refuse_scattered
from tokenring_xdit.hosts.diffusers.families import FAMILIES
from tokenring_xdit.hosts.diffusers.install import ParallelConfig, register
from tokenring_xdit.hosts.diffusers.offer import compared, family_of, family_of_model, refused_options
from tokenring_xdit.hosts.diffusers.sharding import (
    HOST,
    DiffusersSharding,
    refuse_changed,
    shard,
    sharding_of,
    unshard,
)
from tokenring_xdit.hosts.forwards import refuse_held
from tokenring_xdit.hosts.sharding import still_shared_by, transformers_of
from tokenring_xdit.parallel import ParallelDims

__all__ = ["ContextParallelConfig", "DiffusersHost", "parallelize", "undo"]

_Pipeline = TypeVar("_Pipeline")

_NOT_NEEDED = frozenset({"xfuser"})


@dataclass(frozen=True)
class ContextParallelConfig(ParallelConfig):
    """Config for diffusers' ``enable_parallelism`` that selects TokenRing, in place of its ``ContextParallelConfig``.

    Making one attaches TokenRing to diffusers.

    Attributes:
        tokenring_degree: Ranks that the sequence is sharded over.
        schedule: What they exchange and when.
    """

    tokenring_degree: int
    schedule: str = DEFAULT_SCHEDULE
    tensor_parallel_config: ClassVar[None] = None
    """What diffusers asks every config for."""

    def __post_init__(self) -> None:
        register()

    def apply(self, model: Any, cp_plan: Mapping[str, Any] | None) -> None:
        """Spread a transformer over all ranks, for diffusers' ``enable_parallelism``.

        Raises:
            TokenRingError: The request is refused; the same error on all ranks.
        """
        _spread_model(model, self, cp_plan)


def parallelize(
    pipe: _Pipeline,
    *,
    tokenring_degree: int = 1,
    schedule: str = DEFAULT_SCHEDULE,
    output: Output = Output.EVERY_RANK,
    **options: Any,
) -> _Pipeline:
    """Spread a diffusers pipeline over all ranks; every rank calls it with the same pipeline.

    As ``tokenring_xdit.hosts.xfuser.parallelize``, without xfuser: the transformer is diffusers' own, which is cut
    as its ``_cp_plan`` says or as this package's record of it does.

    Args:
        pipe: A diffusers pipeline, loaded and on this rank's device.
        tokenring_degree: Ranks that TokenRing shards the sequence over.
        schedule: What they exchange and when.
        output: Which ranks get the result.
        **options: Options of the other host; refused unless they are the default.

    Returns:
        ``pipe``.

    Raises:
        ConfigurationError: A library is missing, or too old or new; there are no ranks, or their number is not the
            degree; the pipeline is parallel already; or ``output`` is unknown.
        UnsupportedError: The pipeline, or what was done to it before, was not compared with the single process.
    """
    unknown = options.keys() - {"ulysses_degree", "attention_backend", "cuda_graphs"}
    if unknown:
        raise TypeError(f"parallelize() got an unexpected keyword argument {min(unknown)!r}")
    check_versions(_NOT_NEEDED)
    register()
    join_world()

    def asked() -> DiffusersHost:
        reason = refused_options(options)
        if reason is not None:
            raise UnsupportedError(
                f"host='{HOST}' was asked for, and {reason}: leave that out (schedule='heads' cuts heads), or use "
                "host='xfuser'"
            )
        return DiffusersHost(ParallelDims(tokenring=tokenring_degree, schedule=schedule))

    return spread_over_ranks(pipe, asked, output)


def undo(pipe: Any) -> None:
    """Let each rank compute a pipeline, or a transformer, by itself again; its weights and adapters stay.

    Args:
        pipe: What ``parallelize(..., host="diffusers")`` or ``enable_parallelism`` was called for.

    Raises:
        UnsupportedError: Another host spread it, or something holds on to what its transformer was meanwhile.
    """
    models = list(transformers_of(pipe).values()) or [pipe]
    for model in models:  # before any of them is changed
        if sharding_of(model) is not None:
            refuse_held(getattr(model, "_orig_mod", model))
    for model in models:
        unshard(model)
    taken_back(pipe)


class DiffusersHost:
    """Diffusers as it was asked for, as :class:`~tokenring_xdit.hosts.base.Host` says.

    Args:
        dims: How the ranks are divided.
    """

    def __init__(self, dims: ParallelDims) -> None:
        self._dims = dims

    @property
    def settings(self) -> Mapping[str, str]:
        """Degrees."""
        return {"host": HOST, "degrees": str(self._dims)}

    def refuse(self, pipe: Any) -> None:
        """Refuse what was not compared, degrees that do not fit, and what was done to the pipeline before."""
        name = type(pipe).__name__
        family = family_of(name)
        if family is None:
            raise UnsupportedError(
                f"parallelize with host='{HOST}' was asked for in {name}, which has not been compared with the single "
                f"process yet. Compared so far: {', '.join(compared())}. Call the pipeline without parallelize, or "
                "use host='xfuser'"
            )
        self._dims.refuse_started(dist.get_world_size())
        refuse_scattered(pipe)
        for part, model in self.models(pipe).items():
            sharding = sharding_of(model)
            if sharding is None:
                refuse_changed(model, family)
            elif sharding.dims != self._dims:
                raise ConfigurationError(
                    f"the {part} of this pipeline is that of another one, which was made parallel with "
                    f"{sharding.dims}: use the same here, or load the pipeline anew"
                )

    def spread(self, pipe: Any) -> None:
        """Change the classes of its transformers, around their weights."""
        family = family_of(type(pipe).__name__)
        assert family is not None
        for model in self.models(pipe).values():
            if sharding_of(model) is None:
                shard(model, self._dims, family)

    def models(self, pipe: Any) -> Mapping[str, Any]:
        """Its transformers."""
        return transformers_of(pipe)

    def shard_of(self, name: str, model: Any) -> DiffusersSharding:
        """What a transformer carries with it."""
        return still_shared_by(DiffusersSharding, name, model)

    def activate(self, pipe: Any) -> None:
        """Nothing of this host is global."""

    def device(self, pipe: Any) -> torch.device:
        """As diffusers says."""
        device: torch.device = pipe._execution_device
        return device


def _spread_model(model: Any, config: ContextParallelConfig, cp_plan: Mapping[str, Any] | None) -> None:
    check_versions(_NOT_NEEDED)
    join_world()
    kind = type(model).__name__
    settings, family, dims = {"host": HOST}, None, None
    with noting() as noted:
        dims = ParallelDims(tokenring=config.tokenring_degree, schedule=config.schedule)
        settings |= {"degrees": str(dims)}
        dims.refuse_started(dist.get_world_size())
        family = family_of_model(kind)
        if family is None or cp_plan is not None:
            what = "a plan of its own" if cp_plan is not None else kind
            known = sorted(each.transformer for each in FAMILIES.values())
            raise UnsupportedError(
                f"enable_parallelism with TokenRing was asked for {what}, which was not compared with the single "
                f"process: leave cp_plan out, and use one of {', '.join(known)}; or use diffusers' own "
                "ContextParallelConfig"
            )
        if sharding_of(model) is not None:
            raise ConfigurationError(f"this {kind} was made parallel before: load it anew for other degrees")
        refuse_changed(model, family)
    if dist.get_world_size() == 1:
        if noted.problem is not None:
            raise noted.problem
        return
    agree_on_arguments({"model": kind, **settings}, noted.problem)
    assert family is not None
    assert dims is not None
    shard(model, dims, family)
