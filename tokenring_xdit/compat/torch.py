"""Differences between versions of torch, from 2.8 on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import reduce, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = [
    "RELIED_ON",
    "RING_MODULE",
    "SYMMETRIC_MEMORY",
    "frame_outside_graphs",
    "in_place_of",
    "nccl_options",
    "new_group",
    "outside_graphs",
    "symmetric_memory",
    "symmetric_memory_lacks",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

RELIED_ON = (
    "distributed_c10d._abort_process_group",
    "distributed_c10d._get_default_group",
    "distributed_c10d._get_default_store",
    "distributed_c10d._world.default_pg",
    "distributed_c10d._world.group_count",
    "distributed_c10d._world.pg_map",
    "distributed_c10d._world.pg_names",
    "ProcessGroup._allgather_base",
    "ProcessGroup._device_types",
    "ProcessGroup._end_coalescing",
    "ProcessGroup._get_backend",
    "ProcessGroup._start_coalescing",
    "ProcessGroup.alltoall_base",
    "ProcessGroup.bound_device_id",
    "ProcessGroup.group_name",
)
"""Names in ``torch.distributed`` that torch documents nowhere, and the package uses."""

SYMMETRIC_MEMORY = (
    "get_backend",
    "rendezvous",
    "_SymmetricMemory.barrier",
    "_SymmetricMemory.empty_strided_p2p",
    "_SymmetricMemory.get_buffer",
    "_SymmetricMemory.put_signal",
    "_SymmetricMemory.rank",
    "_SymmetricMemory.signal_pad_size",
    "_SymmetricMemory.wait_signal",
    "_SymmetricMemory.world_size",
)
"""Names in ``torch.distributed._symmetric_memory`` that GPUs need to reach each other's memory with it."""

_OF_THE_CLASS = ("_SymmetricMemory.signal_pad_size",)
"""Those that have to be numbers of the class; before torch 2.10 it is one of each object."""

_NOTES = "_torchdynamo"

_SORTING_IS_OPTIONAL = "sort_ranks" in inspect.signature(dist.new_group).parameters
"""Where it is not, the ranks of every group are sorted, and so are those of a group that is made like it."""

_FOLDER = Path(torch.__file__).parent / "distributed" / "tensor" / "experimental" / "_context_parallel"

RING_MODULE = f"torch.distributed.tensor.experimental{'._context_parallel' if _FOLDER.is_dir() else ''}._attention"
"""Where torch has the ring of keys that xfuser's Ring is."""


def new_group(ranks: Sequence[int], *, use_local_synchronization: bool = False, **options: Any) -> dist.ProcessGroup:
    """:func:`torch.distributed.new_group` with the ranks in the order given, as they are in another group.

    Args:
        ranks: Global ranks.
        use_local_synchronization: Whether these ranks alone make it.
        options: As there.
    """
    if _SORTING_IS_OPTIONAL:
        options["sort_ranks"] = False
    with _bound_to_no_device() if use_local_synchronization else nullcontext():
        group: dist.ProcessGroup = dist.new_group(
            list(ranks), use_local_synchronization=use_local_synchronization, **options
        )
    return group


@contextmanager
def _bound_to_no_device() -> Iterator[None]:
    """Have a group made without the ranks of the world that are not in it.

    Where ``init_process_group`` was given a ``device_id``, torch splits each new communicator off that of the world, to
    which all ranks of the world have to come: ``distributed_c10d._new_process_group_helper`` reads it from the world.
    """
    world: Any = dist.distributed_c10d._get_default_group()
    bound, world.bound_device_id = world.bound_device_id, None
    try:
        yield
    finally:
        world.bound_device_id = bound


def nccl_options(most_ctas: int | None, timeout: timedelta | None) -> Any:
    """Options of a group on NCCL whose kernels go ahead of those that compute.

    Each group needs its own: torch writes into them.

    Args:
        most_ctas: Thread blocks, of a multiprocessor each, that a kernel of NCCL has at most; ``None`` for as many as
            NCCL takes. Left out where torch was built with an NCCL that does not know of it.
        timeout: Timeout of the group; ``None`` for torch's own.

    Returns:
        ``ProcessGroupNCCL.Options``; ``None`` where this torch has no NCCL.
    """
    kind = getattr(dist, "ProcessGroupNCCL", None)
    if kind is None:
        return None
    options = kind.Options(is_high_priority_stream=True)
    config: Any = getattr(options, "config", None)
    if most_ctas is not None and hasattr(config, "max_ctas"):
        config.max_ctas = most_ctas
    if timeout is not None:
        options._timeout = timeout  # else torch warns that the two differ
    return options


def symmetric_memory() -> Any:
    """``torch.distributed._symmetric_memory``, whose name says that it may change; ``None`` where there is none."""
    try:
        return import_module("torch.distributed._symmetric_memory")
    except ImportError:
        return None


def symmetric_memory_lacks() -> list[str]:
    """Which of :data:`SYMMETRIC_MEMORY` this torch does not have."""
    module, lacks = symmetric_memory(), []
    for name in SYMMETRIC_MEMORY:
        try:
            found = reduce(getattr, name.split("."), module)
        except AttributeError:
            lacks.append(name)
            continue
        if name in _OF_THE_CLASS and isinstance(found, property):
            lacks.append(name)
    return lacks


def in_place_of(original: _Function, function: _Function) -> _Function:
    """:func:`functools.wraps`, which leaves what torch has noted on the function itself."""
    own = {name: value for name, value in vars(function).items() if name.startswith(_NOTES)}
    wraps(original)(function)
    for name in [name for name in vars(function) if name.startswith(_NOTES)]:
        delattr(function, name)
    vars(function).update(own)
    return function


def frame_outside_graphs(function: _Function) -> _Function:
    """Keep ``torch.compile`` from a function, and let it compile what that calls.

    ``functools.wraps`` copies what torch notes on a function that it keeps out already. Older releases (2.8) take
    that for the function itself, and drop what was put round it.

    Args:
        function: A new one, in which nothing but its own code counts.
    """
    vars(function).pop("_torchdynamo_orig_callable", None)
    kept: _Function = torch.compiler.disable(function, recursive=False)  # type: ignore[no-untyped-call]
    return kept


def outside_graphs(function: _Function) -> _Function:
    """Keep ``torch.compile`` from a function and from all that it calls."""
    kept: _Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return kept
