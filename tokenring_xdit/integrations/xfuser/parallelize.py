"""One call that spreads a diffusers pipeline over the ranks of ``torchrun``; it is then called as always."""

from __future__ import annotations

import hashlib
import inspect
import os
import pkgutil
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.errors import AgreementError, ConfigurationError, UnsupportedError
from tokenring_xdit.integrations.xfuser.backends import AttentionBackend
from tokenring_xdit.integrations.xfuser.choice import DEFAULT_SCHEDULE
from tokenring_xdit.integrations.xfuser.state import Degrees, XfuserState
from tokenring_xdit.integrations.xfuser.supported import WRAPPERS, heads_of, refuse_ulysses, refuse_untested

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

    The pipeline is changed in place: its transformer becomes xfuser's, its call a call of all ranks
    together. Every rank has to pass the same arguments, which is checked before anything is computed (of
    pictures and tensors their form, not their values). Where no generator is passed, all ranks take the
    noise of a seed that the first one draws.

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
        ConfigurationError: There are no ranks, or their number is not the product of the degrees; or the
            pipeline is parallel already; or ``output`` is none.
        UnsupportedError: The pipeline was not compared with the single process, has heads that the Ulysses ranks do
            not divide, its weights are offloaded already, or this machine lacks what the attention backend needs.
    """
    backend = AttentionBackend.parse(attention_backend)
    backend.refuse_missing()
    degrees = Degrees(ulysses=ulysses_degree, tokenring=tokenring_degree, schedule=schedule)
    if not isinstance(output, Output):
        raise ConfigurationError(f"output is {output!r}; it has to be {' or '.join(map(str, Output))}")
    refuse_untested(pipe)
    if hasattr(type(pipe), _MARK):
        raise ConfigurationError("this pipeline was made parallel before: load it anew for other degrees")
    _refuse_offloaded(pipe)
    _join_world()
    if degrees.ranks != dist.get_world_size():
        raise ConfigurationError(
            f"tokenring_degree={tokenring_degree} times ulysses_degree={ulysses_degree} is {degrees.ranks} ranks, and "
            f"{dist.get_world_size()} were started: use degrees whose product is that, or torchrun "
            f"--nproc_per_node={degrees.ranks}"
        )
    _refuse_heads(pipe, ulysses_degree)
    if degrees.ranks == 1:
        return pipe
    state = XfuserState(degrees, type(pipe).__name__, backend)
    wrapper = pkgutil.resolve_name(WRAPPERS[type(pipe).__name__])
    if issubclass(wrapper, torch.nn.Module):
        for part in _TRANSFORMERS:
            if getattr(pipe, part, None) is not None:
                setattr(pipe, part, _wrapped(wrapper, getattr(pipe, part)))
        state.activate(pipe)
        run: Callable[..., Any] = _own_call(pipe, state)
        whole = True
    else:
        state.activate(pipe)
        run = _refusing_dropped(type(pipe), wrapper(pipe, state.config))
        state.activate(pipe)  # the wrapper has made a runtime state of its own
        whole = False  # it gives the result to the last rank only
    _replace_call(pipe, state, run, output, whole)
    return pipe


def _refuse_offloaded(pipe: Any) -> None:
    """Weights that wait elsewhere cannot be put into another class; offloading what came of it works."""
    offloaded = [
        n for n, part in pipe.components.items() if hasattr(part, "_hf_hook") or hasattr(part, "hf_device_map")
    ]
    if offloaded:
        raise UnsupportedError(
            f"accelerate offloads {', '.join(offloaded)} already, and their weights cannot be found there: call "
            "parallelize first and enable_model_cpu_offload or enable_sequential_cpu_offload after it; leave out "
            "device_map"
        )


def _refuse_heads(pipe: Any, ulysses_degree: int) -> None:
    """Before anything of the pipeline is exchanged: xfuser finds out later."""
    for transformer in (getattr(pipe, part, None) for part in _TRANSFORMERS):
        if transformer is not None:
            refuse_ulysses(ulysses_degree, heads_of(transformer.config))


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


def _wrapped(wrapper: Any, model: Any) -> Any:
    """Xfuser's class around the very weights of a model, none of which is copied."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        wrapped = wrapper.from_config(model.config)
    wrapped.load_state_dict(model.state_dict(), assign=True)
    return wrapped.to(model.device).eval()


def _own_call(pipe: Any, state: XfuserState) -> Callable[..., Any]:
    call = type(pipe).__call__

    def run(**arguments: Any) -> Any:
        runtime = state.runtime
        runtime.split_text_embed_in_sp = True
        runtime.max_condition_sequence_length = arguments.get("max_sequence_length")
        return call(pipe, **arguments)

    return run


def _refusing_dropped(base: Any, wrapped: Any) -> Callable[..., Any]:
    """Xfuser's pipeline, which drops some arguments of the diffusers one without a word."""
    dropped = {
        name: parameter.default
        for name, parameter in inspect.signature(base.__call__).parameters.items()
        if name not in inspect.signature(type(wrapped).__call__).parameters
    }

    def run(**arguments: Any) -> Any:
        for name, default in dropped.items():
            if arguments[name] is not default and arguments[name] != default:
                raise UnsupportedError(
                    f"{name}={_describe(arguments[name])} was asked for, which xfuser's {type(wrapped).__name__} does "
                    f"not take: leave it at {default!r}"
                )
        return wrapped(**{name: value for name, value in arguments.items() if name not in dropped})

    return run


def _replace_call(pipe: Any, state: XfuserState, run: Callable[..., Any], output: Output, whole: bool) -> None:
    base = type(pipe)
    signature = inspect.signature(base.__call__)

    def call_together(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        _agree(arguments)
        if "generator" in arguments and arguments["generator"] is None:
            arguments["generator"] = torch.Generator().manual_seed(_seed_of_first())
        state.activate(self)
        result = run(**arguments)
        if not whole:
            parcel = [result]
            dist.broadcast_object_list(parcel, src=dist.get_world_size() - 1)
            (result,) = parcel
        return result if output is Output.EVERY_RANK or dist.get_rank() == 0 else None

    # Python looks a call up on the class. The name stays, by which diffusers and xfuser know the pipeline.
    body = {_MARK: True, "__call__": call_together, "__doc__": base.__doc__, "__module__": base.__module__}
    pipe.__class__ = type(base.__name__, (base,), body)


def _seed_of_first() -> int:
    seed = [int(torch.randint(2**62, ()).item())]
    dist.broadcast_object_list(seed, src=0)
    return seed[0]


def _agree(arguments: dict[str, Any]) -> None:
    """Refuse a call whose ranks were given different arguments, on all of them."""
    mine = {name: _describe(value) for name, value in arguments.items()}
    everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    for name in everyone[0]:
        for rank, theirs in enumerate(everyone):
            if theirs.get(name) != everyone[0][name]:
                raise AgreementError(
                    f"all ranks make one picture together, but {name} is {everyone[0][name]} on rank 0 and "
                    f"{theirs.get(name)} on rank {rank}: pass the same everywhere"
                )


def _describe(value: Any) -> str:
    if isinstance(value, torch.Generator):
        return f"a generator in state {hashlib.sha256(value.get_state().numpy().tobytes()).hexdigest()[:8]}"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_describe, value))}]"
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"
