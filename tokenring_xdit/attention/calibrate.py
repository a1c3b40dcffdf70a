"""How fast this machine attends, packs and merges: measured in about a second, for the planner."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from tokenring_xdit.attention.kernels import choose
from tokenring_xdit.attention.merge import fold_
from tokenring_xdit.planning import Cost

__all__ = ["calibrate"]

_TOKENS = {"cpu": (128, 1024), "cuda": (2048, 8192)}
"""Tokens of the two calls of the kernel that are timed: on a GPU as many as fill it."""

_SECONDS = 0.3
"""For each of three measurements."""


@torch.inference_mode()
def calibrate(
    device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, *, ranks_here: int, ranks: int
) -> Cost:
    """Measure the kernel and the merge on this device; ranks elsewhere are taken to be alike.

    Args:
        device: Where attention runs.
        dtype: Of queries, keys and values.
        heads: Query heads.
        head_dim: Width of a head.
        ranks_here: Ranks that share this machine's processor, where that is the device.
        ranks: Ranks in all.

    Raises:
        KernelError: No kernel takes this dtype here.
    """
    kernel = choose(None, device, dtype)

    def seconds_of(tokens: int) -> float:
        q, k, v = (torch.randn(1, heads, tokens, head_dim, device=device).to(dtype) for _ in range(3))
        return _fastest(lambda: kernel.run(q, k, v, scale=None, causal=False), device)

    few, many = _TOKENS[device.type]
    short, long = seconds_of(few), seconds_of(many)
    work = 4.0 * heads * head_dim * (many**2 - few**2)
    rate = work / max(long - short, 1e-9)
    overhead = max(0.0, short - 4.0 * heads * head_dim * few**2 / rate)
    out = torch.randn(1, heads, many, head_dim, device=device)
    lse, other = (torch.randn(1, heads, many, device=device) for _ in range(2))
    partial = torch.randn_like(out).to(dtype)
    fold = _fastest(lambda: fold_(out, lse, partial, other), device)
    fold_rate = (partial.nbytes + other.nbytes) / fold
    if device.type == "cuda":
        return Cost.of_gpus(rate, fold_rate)
    cores = (os.cpu_count() or 1) * ranks / ranks_here
    threads = torch.get_num_threads()
    return Cost.of_processors(rate, fold_rate, cores=cores, attend_overhead=overhead, threads=threads)


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call when nothing disturbs it: the least of as many as fit into the time there is."""
    call()
    found: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(found) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)
