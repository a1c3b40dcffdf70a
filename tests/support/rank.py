"""What a rank of the tests' pool serves: it calls a function as one rank of a fresh world."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.workers.loop import Commands, Mailbox

HOST = "127.0.0.1"
BACKEND, PORT, INDEX = "TEST_POOL_BACKEND", "TEST_POOL_PORT", "TEST_POOL_INDEX"
"""Variables of a rank's environment: of torch.distributed, of the pool's store, and the rank's number in the pool."""


@dataclass(frozen=True)
class Job:
    """Call a function as one rank of a world.

    Attributes:
        world: Name of the world.
        ranks: Its ranks: numbers in the pool below this.
        function: Of a module that the ranks can import.
        arguments: Its arguments.
    """

    world: str
    ranks: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Result:
    """What the function returned, or raised, and where."""

    value: Any
    error: Exception | None = None
    trace: str = ""


def commands(mailbox: Mailbox) -> Commands:
    """Join the store of the pool."""
    torch.set_num_threads(1)
    backend, index = os.environ[BACKEND], int(os.environ[INDEX])
    local_rank = _take_gpu(index) if backend == "nccl" else index
    store = dist.TCPStore(HOST, int(os.environ[PORT]), is_master=False)

    def call(job: Job) -> Result:
        os.environ.update(RANK=str(index), WORLD_SIZE=str(job.ranks), LOCAL_RANK=str(local_rank))
        # Ranks that were started for this job may take longer than a world waits for its ranks.
        store.set(f"{job.world} has {index}", b"")
        store.wait([f"{job.world} has {other}" for other in range(job.ranks)], timedelta(seconds=600))
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(job.world, store),
            rank=index,
            world_size=job.ranks,
            timeout=timedelta(seconds=600),  # of a collective; a job that hangs is ended by who asked for it
        )
        torch.manual_seed(1234)
        try:
            result = Result(job.function(*job.arguments))
        except Exception as error:
            result = Result(None, error, traceback.format_exc())
        finally:
            dist.destroy_process_group()
        try:
            pickle.dumps(result)
        except Exception as error:
            return Result(None, RuntimeError(repr(result.error or error)), result.trace)
        return result

    return {Job: call}


def _take_gpu(index: int) -> int:
    """Choose a rank's GPU.

    NCCL refuses two ranks of a host on one GPU. Ranks that call themselves hosts share it, and talk through sockets.
    """
    host, gpu = divmod(index, torch.cuda.device_count())
    os.environ.update(NCCL_HOSTID=f"host-{host}", NCCL_SOCKET_IFNAME="lo", GLOO_SOCKET_IFNAME="lo")
    torch.cuda.set_device(gpu)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is compared to 1e-5
    return gpu
