"""How long the executor keeps a host busy in a call of 8 ranks: kernels and transfers are left out, merging is not.

``python scripts/measure_python.py`` needs no GPU. Merging is torch's operators here, several for what is
one kernel on a GPU, whose launch is in ``measure_gpu.py``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Buffers, Handle
from tokenring_xdit.attention.local import LocalAttention
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.schedule import build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.problem import Problem

RANKS, CALLS, HEADS, HEAD_DIM = 8, 500, 8, 16
SCHEDULES = ("token_ring:wide=8", "direct:wide=8", "mesh:wide=8", "heads:wide=8", "ring:wide=8", "token_ring", "direct")


class Over:
    """A transfer that is over."""

    def wait(self) -> None:
        """Return at once."""


class Nothing:
    """A transport of one rank that carries nothing."""

    in_order, rank, world_size = True, RANKS // 2, RANKS

    def __init__(self) -> None:
        self.buffers = Buffers()

    def begin(self, *call: Any) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def post(self, recvs: Sequence[Any], sends: Sequence[Any]) -> list[Handle]:
        """Nothing is on its way."""
        return [Over() for _ in (*recvs, *sends)]

    def all_gather(self, *call: Any) -> None:
        """Nothing."""

    def all_to_all(self, *call: Any) -> None:
        """Nothing."""

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Nothing."""


def seconds(name: str) -> list[float]:
    """What calls take, one after the other."""
    problem = Problem.even(RANKS, RANKS * HEAD_DIM, HEADS, HEAD_DIM)
    programs = lower(build(name, RANKS, heads=HEADS).schedule, problem, in_order=True)
    found: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        if q.shape not in found:
            found[q.shape] = torch.zeros(q.shape), torch.zeros(q.shape[:3])
        return found[q.shape]

    shard, transport, times = torch.zeros(1, HEADS, HEAD_DIM, HEAD_DIM), Nothing(), []
    attention = LocalAttention(kernel, None)
    for _ in range(CALLS):
        start = time.perf_counter()
        RankRun("", programs, transport, attention, shard, shard, shard).run()
        times.append(time.perf_counter() - start)
    return times


@torch.inference_mode()
def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; us a call of {RANKS} ranks: median, and fastest tenth"
    )
    for name in SCHEDULES:
        times = sorted(seconds(name))
        print(f"{name:20} {statistics.median(times) * 1e6:6.0f} {times[len(times) // 10] * 1e6:6.0f}")


if __name__ == "__main__":
    main()
