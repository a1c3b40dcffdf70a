"""Print the tables of docs/benchmarks.md that one GPU can give: kernels, merges, and what cutting attention into blocks costs.

python scripts/measure_gpu.py    (a minute; nothing else should use the GPU)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from tokenring_xdit.attention import fused
from tokenring_xdit.attention.kernels import KERNELS, choose
from tokenring_xdit.attention.merge import fold_with_torch

SHAPES = {"Flux 1024": (4608, 24), "Flux 2048": (16896, 24), "Wan 720p": (75600, 40)}
"""Tokens and heads of 128."""

DEVICE = torch.device("cuda", 0)
DTYPE = torch.bfloat16


def on_device(call: Callable[[], object], rounds: int = 11) -> float:
    """Microseconds of a call on the GPU, which never waits for the host: median of a graph's replays."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    times = []
    for _ in range(rounds):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) * 1e3)
    return statistics.median(times)


def on_host(call: Callable[[], object], rounds: int = 51) -> float:
    """Microseconds until a call returns, which only enqueues; median."""
    for _ in range(5):
        call()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def random(heads: int, tokens: int, dtype: torch.dtype = DTYPE) -> torch.Tensor:
    """Queries, keys or outputs of one item."""
    return torch.randn(1, heads, tokens, 128, device=DEVICE, dtype=dtype)


def kernels() -> None:
    """Speed of each kernel on a whole shape."""
    print("| kernel | Flux 1024, us | TFLOP/s | Flux 2048, us | TFLOP/s | host, us a call |\n|" + " --- |" * 6)
    for name, kernel in KERNELS.items():
        if name == "math" or kernel.refusal(DEVICE, DTYPE) is not None:
            continue
        cells = []
        for tokens, heads in list(SHAPES.values())[:2]:
            x = random(heads, tokens)
            us = on_device(lambda x=x, run=kernel.run: run(x, x, x, scale=None, causal=False))
            cells += [f"{us:.0f}", f"{4 * heads * tokens**2 * 128 / us / 1e6:.0f}"]
        x = random(24, 256)
        cells.append(f"{on_host(lambda x=x, run=kernel.run: run(x, x, x, scale=None, causal=False)):.0f}")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


def merges() -> None:
    """One merge of a bf16 partial, as one Triton kernel and in torch's operators."""
    print("\n| merge of | Triton, us | host, us | torch, us | host, us |\n|" + " --- |" * 5)
    for heads, tokens in ((24, 576), (24, 2112), (40, 9450)):
        out, other = random(heads, tokens, torch.float32), random(heads, tokens)
        lse, other_lse = (torch.randn(1, heads, tokens, device=DEVICE) for _ in range(2))
        cells = []
        for fold in (fused.fold_, fold_with_torch):
            call = lambda fold=fold, args=(out, lse, other, other_lse): fold(*args)  # noqa: E731
            cells += [f"{on_device(call):.1f}", f"{on_host(call):.0f}"]
        print(f"| {tokens} tokens, {heads} heads | {' | '.join(cells)} |", flush=True)


def blocks() -> None:
    """A rank's own work: one call over all keys, and N calls over a block each, packed and merged."""
    run = choose(None, DEVICE, DTYPE).run
    print("\n| a rank of | one call, us | its blocks | with packing and merging |\n|" + " --- |" * 4)
    for name, (tokens, heads) in SHAPES.items():
        for ranks in (2, 4, 8):
            length = tokens // ranks
            q, keys, block = random(heads, length), random(heads, length * ranks), random(heads, length)
            message, lse_message = torch.empty_like(block), torch.empty(1, heads, length, device=DEVICE)

            def whole(q: torch.Tensor = q, keys: torch.Tensor = keys) -> None:
                run(q, keys, keys, scale=None, causal=False)

            def cut(n: int = ranks, q: torch.Tensor = q, block: torch.Tensor = block) -> None:
                for _ in range(n):
                    run(q, block, block, scale=None, causal=False)

            def merged(
                n: int = ranks,
                q: torch.Tensor = q,
                block: torch.Tensor = block,
                message: torch.Tensor = message,
                lse_message: torch.Tensor = lse_message,
            ) -> torch.Tensor:
                out, lse = run(q, block, block, scale=None, causal=False)
                out = out.float()
                for _ in range(n - 1):
                    other, other_lse = run(q, block, block, scale=None, causal=False)
                    message.copy_(other)
                    lse_message.copy_(other_lse)
                    fused.fold_(out, lse, message, lse_message)
                return out.to(DTYPE)

            one = on_device(whole)
            print(
                f"| {ranks}, {name} | {one:.0f} | {on_device(cut) / one:.2f} | {on_device(merged) / one:.2f} |",
                flush=True,
            )


def posts() -> None:
    """What the host takes to hand transfers to NCCL: this rank sends to itself."""
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29777", rank=0, world_size=1, device_id=DEVICE)
    group = dist.group.WORLD
    assert group is not None
    there, here = (torch.ones(1 << 16, device=DEVICE) for _ in range(2))
    gathered = torch.empty(1, 1 << 16, device=DEVICE)

    def post() -> None:
        group._start_coalescing(DEVICE)
        group.recv([here], 0, 0)
        group.send([there], 0, 0)
        group._end_coalescing(DEVICE).wait()

    print(
        f"\nHost: {on_host(post):.0f} us for a send and a receive that are posted together, "
        f"{on_host(lambda: dist.all_gather_into_tensor(gathered, there)):.0f} us for an all-gather."
    )
    dist.destroy_process_group()


def main() -> None:
    """Print everything."""
    torch.cuda.set_device(DEVICE)
    print(f"{torch.cuda.get_device_name(DEVICE)}, torch {torch.__version__}, {DTYPE}\n")
    kernels()
    merges()
    blocks()
    posts()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
