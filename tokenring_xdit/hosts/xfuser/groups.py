"""One process group for the same ranks, however often xfuser asks for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

__all__ = ["shared_groups"]

_Key = tuple[tuple[int, ...] | None, str]

_made: dict[_Key, Any] = {}
_world: dist.ProcessGroup | None = None
"""The world that they belong to; a process may leave one and join another."""


@contextmanager
def shared_groups() -> Iterator[None]:
    """Inside, ``torch.distributed.new_group`` gives the group that it gave before for the same ranks and backend.

    xfuser makes one for each way in which it could divide the work, most of them of a single rank, and each once more
    on gloo; a comparison has several states of it. On gloo a group is a thread that wakes up a hundred times a second:
    about forty a state on each of 8 ranks made attention beside them a quarter slower on two cores
    (docs/benchmarks.md). All ranks ask for the same groups in the same order, so that they share alike.
    """
    global _world
    plain = dist.new_group

    def new_group(ranks: Sequence[int] | None = None, timeout: Any = None, backend: Any = None, **options: Any) -> Any:
        if timeout is not None or options:
            return plain(ranks, timeout, backend, **options)
        key = None if ranks is None else tuple(ranks), str(backend or dist.get_backend())
        if _made.get(key) not in dist.distributed_c10d._world.pg_map:  # or was destroyed since
            _made[key] = plain(ranks, backend=backend)
        return _made[key]

    if _world is not dist.group.WORLD:
        _made.clear()
        _world = dist.group.WORLD
    dist.new_group = new_group  # type: ignore[assignment]
    try:
        yield
    finally:
        dist.new_group = plain
