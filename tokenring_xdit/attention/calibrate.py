"""How fast this machine attends, packs and merges: measured in about a second, for the planner."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from tokenring_xdit.attention.kernels import choose
from tokenring_xdit.attention.merge import fold_
from tokenring_xdit.planning import Attention, Machine

__all__ = ["calibrate", "call_times"]

_FEW = 128
"""Tokens of the first call of the kernel that is timed: as few as show what a call takes however short."""

_MANY = {"cpu": 1024, "cuda": 8192}
"""Tokens of the second: on a GPU as many as keep it busy."""

_SECONDS = 0.3
"""For each measurement."""


@torch.inference_mode()
def calibrate(
    device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, *, ranks_here: int, ranks: int
) -> Machine:
    """Measure the kernel and the merge on this device; ranks elsewhere are taken to be alike.

    Args:
        device: Where attention runs.
        dtype: Dtype of queries, keys and values.
        heads: Query heads.
        head_dim: Width of a head.
        ranks_here: Ranks that share this machine's processor, where that is the device.
        ranks: Ranks in all.

    Raises:
        KernelError: No kernel takes this dtype here.
    """
    kernel = choose(None, device, dtype, head_dim)
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    at_once = 1 if device.type == "cuda" else max(1, min(ranks_here, cores // threads))

    def timed(heads: int, tokens: int, at_once: int = 1) -> tuple[Attention, float]:
        """Work and seconds of a call."""
        q, k, v = (torch.randn(1, heads, tokens, head_dim, device=device).to(dtype) for _ in range(3))
        seconds = _typical(lambda: kernel.run(q, k, v, scale=None, causal=False), device, at_once)
        return Attention(4.0 * heads * head_dim * tokens**2, heads, tokens), seconds

    def folded(tokens: int) -> tuple[int, float]:
        """Bytes of a partial output, and seconds in which it is merged; on a GPU, which packs faster, packed too."""
        out = torch.randn(1, heads, tokens, head_dim, device=device)
        lse, other = (torch.randn(1, heads, tokens, device=device) for _ in range(2))
        partial = torch.randn_like(out).to(dtype)

        def fold() -> None:
            fold_(out, lse, partial, other)
            if device.type == "cuda":
                partial.copy_(out)

        return partial.nbytes + other.nbytes, _typical(fold, device)

    many = _MANY[device.type]
    # The short call alone: threads would wait for each other's Python, which ranks do not.
    (little, short), (much, long) = timed(1, _FEW), timed(heads, many, at_once)
    size, fold = folded(many)
    if device.type == "cuda":
        # Short calls are launched and waited for like long ones, which is no matter of rates.
        less, brief = folded(_FEW)
        fold_rate = 2 * (size - less) / max(fold - brief, 1e-9)
        gpu = Machine.of_gpus(1.0, fold_rate, torch.cuda.get_device_properties(device).multi_processor_count)
        return replace(gpu, attend_rate=gpu.attend_rate_of(much, long - short + gpu.attend_overhead))
    rate = (much.flops - little.flops) / max(long - short, 1e-9)
    return Machine.of_processors(
        rate,
        size / fold,
        cores=cores * ranks / ranks_here,
        attend_overhead=max(0.0, short - little.flops / rate),
        threads=threads,
    )


def _typical(call: Callable[[], object], device: torch.device, at_once: int = 1) -> float:
    """Median seconds of a call while others like it run, as the cores of a processor share caches, and more."""

    @torch.inference_mode()  # a thread has a mode of its own
    def times() -> list[float]:
        call()
        return call_times(call, device, _SECONDS)

    if at_once == 1:
        return statistics.median(times())  # in this thread, which knows its CUDA device
    with ThreadPoolExecutor(at_once) as threads:
        runs = [threads.submit(times) for _ in range(at_once)]
        return statistics.median(seconds for run in runs for seconds in run.result())


def call_times(call: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of each of several calls, waited for one by one: three, and more while there is time.

    Args:
        call: What is timed; called before, where the first call is slower.
        device: Where it computes.
        seconds: How long to go on.
    """
    found: list[float] = []
    until = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return found
