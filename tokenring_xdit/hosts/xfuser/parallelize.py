"""One call that spreads a diffusers pipeline over the ranks of ``torchrun``; it is then called as always."""

from __future__ import annotations

import inspect
import os
from contextlib import ExitStack
from enum import Enum
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tokenring_xdit.attention import guarded
from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.xfuser.agreement import (
    agree_on_arguments,
    agree_on_result,
    noise_of_the_first_rank,
    noting,
)
from tokenring_xdit.hosts.xfuser.backends import AttentionBackend
from tokenring_xdit.hosts.xfuser.choice import refuse_unattached
from tokenring_xdit.hosts.xfuser.noise import no_debug_lines
from tokenring_xdit.hosts.xfuser.sharding import Sharding, refuse_changed, shard, sharding_of
from tokenring_xdit.hosts.xfuser.state import XfuserState
from tokenring_xdit.hosts.xfuser.supported import WRAPPERS, heads_of, refuse_ulysses, refuse_untested
from tokenring_xdit.parallel import ParallelDims

__all__ = ["Output", "parallelize"]

_Pipeline = TypeVar("_Pipeline")

_MARK = "tokenring_parallel"
"""Attribute of the classes made here."""


_TRANSFORMERS = ("transformer", "transformer_2")
"""What pipelines call them."""


class Output(Enum):
    """Which ranks get what the pipeline makes; the others get ``None``."""

    EVERY_RANK = "every rank"
    FIRST_RANK = "the first rank"


def parallelize(
    pipe: _Pipeline,
    *,
    tokenring_degree: int = 1,
    ulysses_degree: int = 1,
    schedule: str = DEFAULT_SCHEDULE,
    attention_backend: str | AttentionBackend = AttentionBackend.AUTO,
    output: Output = Output.EVERY_RANK,
) -> _Pipeline:
    """Spread a diffusers pipeline over all ranks; every rank calls it with the same pipeline.

    The pipeline is changed in place: all ranks compute its transformer together, and its call becomes a call of all
    ranks. Every rank has to pass the same arguments and to have the same weights, which is checked before anything is
    computed. What is drawn without a generator is drawn alike on all ranks, as the first one draws it.

    Args:
        pipe: A diffusers pipeline, loaded and on this rank's device.
        tokenring_degree: Ranks that TokenRing shards the sequence over.
        ulysses_degree: Ranks that Ulysses shards the heads over.
        schedule: What the TokenRing ranks exchange and when.
        attention_backend: xfuser's kernel for attention on one rank.
        output: Which ranks get the result.

    Returns:
        ``pipe``.

    Raises:
        ConfigurationError: A library is missing, or too old or new; there are no ranks, or their number is not the
            product of the degrees; the pipeline is parallel already; or ``output`` is none.
        UnsupportedError: The pipeline was not compared with the single process, has heads that the Ulysses ranks do
            not divide, its weights are offloaded already, or this machine lacks what the attention backend needs.
    """
    check_versions()
    no_debug_lines()
    _join_world()
    degrees, backend = ParallelDims(), AttentionBackend.AUTO
    with noting() as noted:
        backend = AttentionBackend.parse(attention_backend)
        backend.refuse_missing()
        degrees = ParallelDims(ulysses=ulysses_degree, tokenring=tokenring_degree, schedule=schedule)
        refuse_unattached(degrees.tokenring)
        _refuse(pipe, degrees, backend, output)
    if dist.get_world_size() == 1:
        if noted.problem is not None:
            raise noted.problem
        return pipe
    settings = {"pipe": type(pipe).__name__, "degrees": str(degrees), "attention_backend": backend.value}
    agree_on_arguments({**settings, "output": str(output)}, noted.problem)
    found = [sharding.state for sharding in map(sharding_of, _transformers(pipe).values()) if sharding is not None]
    state = found[0] if found else XfuserState(degrees, type(pipe).__name__, backend, exact=True, one_of_several=True)
    state.activate(pipe)
    for part in _transformers(pipe).values():
        if sharding_of(part) is None:
            shard(part, state, WRAPPERS[type(pipe).__name__])
    _replace_call(pipe, state, output)
    return pipe


def _refuse(pipe: Any, degrees: ParallelDims, backend: AttentionBackend, output: Output) -> None:
    """Refuse what ``parallelize`` does not take, before anything is changed."""
    if not isinstance(output, Output):
        raise ConfigurationError(f"output is {output!r}; it has to be {' or '.join(map(str, Output))}")
    refuse_untested(
        pipe,
        f"parallelize with tokenring_degree={degrees.tokenring}, ulysses_degree={degrees.ulysses}",
        "Call the pipeline without parallelize; xdit runs more models with its own --ulysses_degree and --ring_degree",
    )
    if hasattr(type(pipe), _MARK):
        raise ConfigurationError("this pipeline was made parallel before: load it anew for other degrees")
    if degrees.ranks != dist.get_world_size():
        raise ConfigurationError(
            f"tokenring_degree={degrees.tokenring} times ulysses_degree={degrees.ulysses} is {degrees.ranks} ranks, "
            f"and {dist.get_world_size()} were started: use degrees whose product is that, or torchrun "
            f"--nproc_per_node={degrees.ranks}"
        )
    _refuse_offloaded(pipe)
    for part in _transformers(pipe).values():
        refuse_ulysses(degrees.ulysses, heads_of(part.config))
        if degrees.ranks > 1 and sharding_of(part) is None:
            refuse_changed(part, WRAPPERS[type(pipe).__name__])
    _refuse_other_state(pipe, degrees, backend)


def _transformers(pipe: Any) -> dict[str, Any]:
    """The transformers that a pipeline has, by name."""
    found = ((part, getattr(pipe, part, None)) for part in _TRANSFORMERS)
    return {part: model for part, model in found if model is not None}


def _refuse_offloaded(pipe: Any) -> None:
    """Offloading replaces the forward of the class that a model had when it was switched on."""
    offloaded = [
        n for n, part in pipe.components.items() if hasattr(part, "_hf_hook") or hasattr(part, "hf_device_map")
    ]
    if offloaded:
        raise UnsupportedError(
            f"accelerate offloads {', '.join(offloaded)} already, and their weights cannot be found there: call "
            "parallelize first and enable_model_cpu_offload or enable_sequential_cpu_offload after it; leave out "
            "device_map"
        )


def _refuse_other_state(pipe: Any, degrees: ParallelDims, backend: AttentionBackend) -> None:
    """A transformer that another pipeline brought along is shared out as that pipeline was told."""
    for name, model in _transformers(pipe).items():
        sharding = sharding_of(model)
        if sharding is not None and (sharding.state.degrees, sharding.state.backend) != (degrees, backend):
            raise ConfigurationError(
                f"the {name} of this pipeline is that of another one, which was made parallel with "
                f"{sharding.state.degrees}, attention_backend={sharding.state.backend.value}: use the same here, or "
                "load the pipeline anew"
            )


def _join_world() -> None:
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise ConfigurationError(
            "there are no ranks to spread the pipeline over: start the program with torchrun --nproc_per_node=N, or "
            "call torch.distributed.init_process_group first"
        )
    if torch.cuda.is_available():  # not run on a GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def _replace_call(pipe: Any, state: XfuserState, output: Output) -> None:
    base = type(pipe)
    signature = inspect.signature(base.__call__)

    @wraps(base.__call__)
    def call_together(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments: dict[str, Any] = {}
        weights: dict[str, str] = {}
        shardings: list[Sharding] = []
        with ExitStack() as stack:
            stack.enter_context(guarded(None, f"a call of {base.__name__}"))
            with noting() as noted:
                try:
                    bound = signature.bind(self, *args, **kwargs)
                except TypeError as error:
                    raise ConfigurationError(f"{base.__name__} cannot be called like this: {error}") from error
                bound.apply_defaults()
                arguments = dict(list(bound.arguments.items())[1:])
                for name, model in _transformers(self).items():
                    shardings.append(_sharding(name, model))
                    shardings[-1].check(getattr(model, "_orig_mod", model))
                    weights |= {f"{name}.{part}": digest for part, digest in shardings[-1].weights().items()}
            agree_on_arguments(arguments, noted.problem, weights)
            state.activate(self)
            stack.enter_context(noise_of_the_first_rank(self._execution_device))
            for sharding in shardings:
                stack.enter_context(sharding.checked())
            result = base.__call__(self, **arguments)
            agree_on_result(base.__name__, result)
        return result if output is Output.EVERY_RANK or dist.get_rank() == 0 else None

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not dist.is_initialized() or dist.get_rank() == 0:  # the others have the same, and may not call this
            base.save_pretrained(self, *args, **kwargs)

    # Python looks a call up on the class. The name stays, by which diffusers and xfuser know the pipeline.
    body = {
        _MARK: True,
        "__call__": call_together,
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "save_pretrained": wraps(base.save_pretrained)(save_pretrained),
    }
    pipe.__class__ = type(base.__name__, (base,), body)


def _sharding(name: str, model: Any) -> Sharding:
    sharding = sharding_of(model)
    if sharding is None:
        raise UnsupportedError(
            f"the {name} of this pipeline was replaced after parallelize ({type(model).__name__}), and would compute "
            "the whole on every rank: load the pipeline with it, and call parallelize then"
        )
    return sharding
