"""One process group for the same ranks, however often a host library asks for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.running import RUNNING

__all__ = ["shared_groups"]


@contextmanager
def shared_groups() -> Iterator[None]:
    """Inside, ``torch.distributed.new_group`` gives the group that it gave before for the same ranks and backend.

    xfuser makes one for each way in which it could divide the work, most of them of a single rank, and each once more
    on gloo; a comparison has several states of it. On gloo a group is a thread that wakes up a hundred times a second:
    about forty a state on each of 8 ranks made attention beside them a quarter slower on two cores
    (docs/benchmarks.md). All ranks ask for the same groups in the same order, so that they share alike.
    """
    plain = dist.new_group

    def new_group(ranks: Sequence[int] | None = None, timeout: Any = None, backend: Any = None, **options: Any) -> Any:
        if timeout is not None or options:
            return plain(ranks, timeout, backend, **options)
        key = None if ranks is None else tuple(ranks), str(backend or dist.get_backend())
        if RUNNING.groups.get(key) not in dist.distributed_c10d._world.pg_map:  # or was destroyed since
            RUNNING.groups[key] = plain(ranks, backend=backend)
        return RUNNING.groups[key]

    if RUNNING.world is not dist.group.WORLD:
        RUNNING.groups.clear()
        RUNNING.world = dist.group.WORLD
    with INSTALLATION.replaced(dist, "new_group", new_group, "several states share process groups"):
        yield
