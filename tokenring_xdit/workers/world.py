"""Where a rank joins the others of its world."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.workers.environment import INIT_METHOD_VARIABLE, STORE_VARIABLE

__all__ = ["join_world"]

_TORCHRUN = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join_world(device: torch.device, timeout: timedelta, store: Any = None) -> None:
    """Join the other ranks: at a store, where the process that started them says, or else as ``torchrun`` says.

    Args:
        device: Device of this rank: the ranks talk over NCCL on GPUs, over gloo otherwise.
        timeout: For a rank that does not answer.
        store: Where they join; ``None`` is what the environment says.

    Raises:
        ConfigurationError: The environment says less than torchrun does.
    """
    if store is None and STORE_VARIABLE in os.environ:
        store = _first_ranks_store(os.environ[STORE_VARIABLE], timeout)
    where = None if store is not None else os.environ.get(INIT_METHOD_VARIABLE, "env://")
    if where == "env://" and (missing := [name for name in _TORCHRUN if name not in os.environ]):
        raise ConfigurationError(
            f"RANK is set and {', '.join(missing)} is not: torchrun sets all of them; leave RANK out to have ranks "
            "started on this machine"
        )
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=where,
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timeout,
    )


def _first_ranks_store(descriptor: str, timeout: timedelta) -> Any:
    """The store of a world whose first rank was given the socket to listen on, so that nobody else takes its port."""
    listens: dict[str, Any] = {"master_listen_fd": int(descriptor)} if descriptor else {}
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=bool(descriptor),
        wait_for_workers=False,
        timeout=timeout,
        use_libuv=True,
        **listens,
    )
