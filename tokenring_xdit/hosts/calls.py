"""A call of a pipeline that is a call of all ranks: what they agree on before, share during and compare after it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from functools import wraps
from typing import Any, TypeVar

import torch.distributed as dist

from tokenring_xdit.attention import guarded
from tokenring_xdit.devices import rank_device
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.agreement import (
    ONE_PICTURE,
    agree_on_arguments,
    agree_on_result,
    noise_of_the_first_rank,
    noting,
)
from tokenring_xdit.hosts.base import Host, PipelineHost, Shard

__all__ = ["Output", "agreed_host", "is_spread", "join_world", "spread_over_ranks", "taken_back"]

_Pipeline = TypeVar("_Pipeline")
_Host = TypeVar("_Host", bound=Host)

_MARK = "tokenring_parallel"
"""Attribute of the classes made here."""


class Output(Enum):
    """Which ranks get the result of the pipeline; the others get ``None``."""

    EVERY_RANK = "every rank"
    FIRST_RANK = "the first rank"


def join_world() -> None:
    """Join the ranks that torchrun has started, where the program has not.

    Raises:
        ConfigurationError: There are none.
    """
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise ConfigurationError(
            "there are no ranks to spread the model over: start the program with torchrun --nproc_per_node=N, or "
            "call torch.distributed.init_process_group first"
        )
    dist.init_process_group("nccl" if rank_device().type == "cuda" else "gloo")  # not run on a GPU


def agreed_host(model: Any, asked: Callable[[], _Host], doing: str, **beside: str) -> _Host:
    """The host that a user asks for, once all ranks ask for the same and none of them refuses.

    Args:
        model: What it is to spread.
        asked: Makes the host. All ranks learn what it refuses.
        doing: What all ranks are to do together with the model.
        **beside: What else has to be the same on all ranks.

    Returns:
        The host, with the same settings on all ranks.

    Raises:
        TokenRingError: The host, or ``asked``, refuses what was asked for; the same on all ranks.
    """
    host: _Host | None = None
    with noting() as noted:
        host = asked()
        host.refuse(model)
    if dist.get_world_size() > 1:
        settings = {} if host is None else host.settings
        agree_on_arguments({"model": type(model).__name__, **settings, **beside}, noted.problem, doing=doing)
    elif noted.problem is not None:
        raise noted.problem
    assert host is not None  # or there was a problem
    return host


def spread_over_ranks(pipe: _Pipeline, asked: Callable[[], PipelineHost], output: Output) -> _Pipeline:
    """Spread a pipeline over all ranks, in place; every rank calls it with the same pipeline.

    Args:
        pipe: The pipeline, loaded and on this rank's device.
        asked: Makes the host with what the user asks for. All ranks learn what it refuses.
        output: Which ranks get the result.

    Returns:
        ``pipe``. On one rank it is as it was.

    Raises:
        TokenRingError: The host, or this function, refuses what was asked; the same on all ranks.
    """

    def made() -> PipelineHost:
        if not isinstance(output, Output):
            raise ConfigurationError(f"output is {output!r}; it has to be {' or '.join(map(str, Output))}")
        host = asked()
        if is_spread(pipe):
            raise ConfigurationError("this pipeline was made parallel before: load it anew for other degrees")
        return host

    host = agreed_host(pipe, made, ONE_PICTURE, output=str(output))
    if dist.get_world_size() > 1:
        host.spread(pipe)
        _replace_call(pipe, host, output)
    return pipe


def is_spread(pipe: Any) -> bool:
    """Whether calls of a pipeline are calls of all ranks."""
    return hasattr(type(pipe), _MARK)


def taken_back(pipe: Any) -> None:
    """Make a call of a pipeline that of one rank again; one that was not spread stays as it is."""
    if is_spread(pipe):
        (pipe.__class__,) = type(pipe).__bases__


def _replace_call(pipe: Any, host: PipelineHost, output: Output) -> None:
    base = type(pipe)
    signature = inspect.signature(base.__call__)

    @wraps(base.__call__)
    def call_together(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments: dict[str, Any] = {}
        weights: dict[str, str] = {}
        shards: list[Shard] = []
        with ExitStack() as stack:
            stack.enter_context(guarded(None, f"a call of {base.__name__}"))
            with noting() as noted:
                try:
                    bound = signature.bind(self, *args, **kwargs)
                except TypeError as error:
                    raise ConfigurationError(f"{base.__name__} cannot be called like this: {error}") from error
                bound.apply_defaults()
                arguments = dict(list(bound.arguments.items())[1:])
                for name, model in host.models(self).items():
                    shards.append(host.shard_of(name, model))
                    shards[-1].check(getattr(model, "_orig_mod", model))
                    weights |= {f"{name}.{part}": digest for part, digest in shards[-1].weights().items()}
            agree_on_arguments(arguments, noted.problem, weights)
            host.activate(self)
            stack.enter_context(noise_of_the_first_rank(host.device(self)))
            for shard in shards:
                stack.enter_context(shard.checked())
            result = base.__call__(self, **arguments)
            agree_on_result(base.__name__, result)
        return result if output is Output.EVERY_RANK or dist.get_rank() == 0 else None

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not dist.is_initialized() or dist.get_rank() == 0:  # the others have the same, and may not call this
            base.save_pretrained(self, *args, **kwargs)

    # Python looks a call up on the class. The name stays, by which host libraries know the pipeline.
    body = {
        _MARK: True,
        "__call__": call_together,
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "save_pretrained": wraps(base.save_pretrained)(save_pretrained),
    }
    pipe.__class__ = type(base.__name__, (base,), body)
