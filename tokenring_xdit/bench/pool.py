"""The ranks of a sweep or a probe: on this machine's loopback, in an emulated network, or those of ``torchrun``."""

from __future__ import annotations

import os

from torch.profiler import ProfilerActivity, profile

from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE
from tokenring_xdit.lab.network import EmulatedNetwork, rank_variables
from tokenring_xdit.workers.environment import rank_environment
from tokenring_xdit.workers.pool import WorkerPool
from tokenring_xdit.workers.torchrun import TorchrunPool

__all__ = ["SWEEP", "start_pool", "torchrun_pool"]

SWEEP = "tokenring_xdit.bench.rank"
"""What the ranks of a sweep serve."""


def start_pool(ranks: int, emulated: EmulatedNetwork | None = None, program: str = SWEEP) -> WorkerPool:
    """Start ranks.

    Args:
        ranks: How many.
        emulated: The network that they run in, rank ``r`` at host ``r``; ``None`` for this machine's loopback.
        program: What they serve.

    Raises:
        LaunchError: They could not be started.
    """
    if emulated is None:
        return WorkerPool(program, ranks)
    inside = emulated

    def environment(rank: int, count: int, init_method: str) -> dict[str, str]:
        own = rank_variables(inside, rank, count, init_method)
        return {**rank_environment(count), **os.environ, **own, TOPOLOGY_VARIABLE: inside.network.name}

    def before(rank: int) -> list[str]:
        return inside.inside(inside.network.hosts[rank], [])

    return WorkerPool(program, ranks, environment=environment, before=before)


def torchrun_pool(program: str = SWEEP) -> TorchrunPool:
    """The ranks that torchrun started for a sweep, this process being rank 0.

    Args:
        program: What they serve.
    """
    with profile(activities=[ProfilerActivity.CPU]):
        pass  # torch's profiler has to be used in the main thread first, and a rank 0 measures in another
    return TorchrunPool(program)
