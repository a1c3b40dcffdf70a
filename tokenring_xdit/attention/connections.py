"""The connections of groups on gloo: tags that keep messages apart, and what closes a connection or tries it."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["TAGS", "TAG_STEP", "break_off", "try_connection"]

TAG_STEP = 5040
"""A multiple of 1 to 10: gloo on several interfaces takes the same one of them for all such tags."""

TAGS = 1009
"""Calls with tags of their own for their transfers; after this many, tags repeat."""

_UNUSED_TAG = TAG_STEP * (TAGS + 1)

_PROBE_TAG = TAG_STEP * (TAGS + 2)


def break_off(group: dist.ProcessGroup) -> None:
    """Make every transfer of a group that is under way fail, here and at the peers; nothing on backends but gloo.

    Closing a group does not end the wait of another thread, and the wait keeps the group from being closed. What ends
    it is that a receive times out: gloo then closes all connections of its group. No peer ever sends with this tag. The
    wait for a message that is on the way in part goes on (``waits.py``).
    """
    try:
        gloo, rank, ranks = _gloo(group), group.rank(), group.size()
    except (RuntimeError, ValueError):  # it was closed
        return
    for peer in range(ranks if gloo is not None else 0):
        if peer != rank:
            with suppress(RuntimeError, ValueError):  # the timeout, or what is broken already
                gloo.recv([torch.empty(1)], peer, _UNUSED_TAG).wait(timedelta(milliseconds=1))


def try_connection(group: dist.ProcessGroup, peer: int) -> None:
    """Send a rank of a group a message that nobody receives; nothing on backends but gloo.

    Raises:
        RuntimeError: Gloo has seen the connection close.
    """
    gloo = _gloo(group)
    if gloo is not None:
        gloo.send([torch.empty(1)], peer, _PROBE_TAG)


def _gloo(group: dist.ProcessGroup) -> Any:
    """What a group does on the CPU, if gloo does it."""
    cpu = torch.device("cpu")
    if cpu not in group._device_types:
        return None
    backend: Any = group._get_backend(cpu)
    backend = getattr(backend, "wrapped_pg", backend)  # TORCH_DISTRIBUTED_DEBUG=DETAIL puts a wrapper round it
    return backend if isinstance(backend, dist.ProcessGroupGloo) else None
