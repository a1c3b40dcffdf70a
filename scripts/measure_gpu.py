"""Print what the tables of docs/gpu.md are taken from: kernels, merges, attention that is cut, calls of schedules.

python scripts/measure_gpu.py    (a minute; nothing else should use the GPU)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import calibrate, fused
from tokenring_xdit.attention.buffers import Buffers, Handle
from tokenring_xdit.attention.kernels import KERNELS, choose
from tokenring_xdit.attention.local import LocalAttention
from tokenring_xdit.attention.merge import Accumulator, fold_with_torch
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.attention.transport import Parcel
from tokenring_xdit.planning import Problem, simulate
from tokenring_xdit.schedule import Mask, VerifiedSchedule, build
from tokenring_xdit.schedule.lower import proved
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.topology import load_topology

SHAPES = {"Flux 1024": (4608, 24), "Flux 2048": (16896, 24), "Wan 720p": (75600, 40)}
"""Tokens, and heads of 128."""

DEVICE = torch.device("cuda", 0)
DTYPE = torch.bfloat16


def on_device(call: Callable[[], object], rounds: int = 15, calls: int = 5) -> float:
    """Microseconds of a call between two events on the GPU, in a row of some; median.

    Where the GPU is done sooner than the host, it is the host's time.
    """
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        for _ in range(calls):
            call()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) / calls * 1e3)
    return float(statistics.median(times))


def captured(call: Callable[[], object], calls: int = 5) -> float:
    """Microseconds of a call in a CUDA graph of some: what the GPU takes for it when nothing is launched."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return on_device(graph.replay, calls=1) / calls


def on_host(call: Callable[[], object], rounds: int = 40) -> float:
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
    tokens, heads = SHAPES["Flux 1024"]
    x = random(heads, tokens)
    print(f"| kernel, {tokens} tokens, {heads} heads of 128 | us | TFLOP/s | host, us |\n|" + " --- |" * 4)
    for name, kernel in KERNELS.items():
        if name != "math" and kernel.refusal(DEVICE, DTYPE) is None:

            def call(run: Callable[..., object] = kernel.run) -> None:
                run(x, x, x, scale=None, causal=False)

            us = on_device(call)
            print(f"| `{name}` | {us:.0f} | {4 * heads * tokens**2 * 128 / us / 1e6:.0f} | {on_host(call):.0f} |")


def merges() -> None:
    """Merging a bf16 partial into fp32, as one Triton kernel and in torch's operators."""
    print("\n| merge of | Triton, us | host, us | torch, us | host, us |\n|" + " --- |" * 5)
    for heads, tokens in ((24, 576), (24, 2112), (24, 4224), (40, 9450), (40, 18900)):
        out, other = random(heads, tokens, torch.float32), random(heads, tokens)
        lse, other_lse = (torch.randn(1, heads, tokens, device=DEVICE) for _ in range(2))
        cells = []
        for fold in (fused.fold_, fold_with_torch):

            def call(
                fold: Callable[..., None] = fold, arguments: tuple[torch.Tensor, ...] = (out, lse, other, other_lse)
            ) -> None:
                fold(*arguments)

            cells += [f"{on_device(call):.0f}", f"{on_host(call):.0f}"]
        print(f"| {tokens} tokens, {heads} heads | {' | '.join(cells)} |", flush=True)


def blocks() -> None:
    """A rank's own work: one call over all keys, and N calls over a block each, packed and merged."""
    run = choose(None, DEVICE, DTYPE).run
    print("\n| ranks, shape | one call, us | N calls | packed and merged | host, us |\n|" + " --- |" * 5)
    for name, (tokens, heads) in SHAPES.items():
        for ranks in (2, 4, 8):
            length = tokens // ranks
            q, keys = random(heads, length), random(heads, length * ranks)
            block = keys[:, :, :length].contiguous()
            message, lse_message = torch.empty_like(q), torch.empty(1, heads, length, device=DEVICE)

            def whole(q: torch.Tensor = q, keys: torch.Tensor = keys) -> None:
                run(q, keys, keys, scale=None, causal=False)

            def cut(ranks: int = ranks, q: torch.Tensor = q, block: torch.Tensor = block) -> None:
                for _ in range(ranks):
                    run(q, block, block, scale=None, causal=False)

            def merged(
                ranks: int = ranks,
                q: torch.Tensor = q,
                block: torch.Tensor = block,
                message: torch.Tensor = message,
                lse_message: torch.Tensor = lse_message,
            ) -> torch.Tensor:
                out, lse = run(q, block, block, scale=None, causal=False)
                out = out.float()
                for _ in range(ranks - 1):
                    other, other_lse = run(q, block, block, scale=None, causal=False)
                    message.copy_(other)
                    lse_message.copy_(other_lse)
                    fused.fold_(out, lse, message, lse_message)
                return out.to(q.dtype)

            one, *rest = (on_device(call, rounds=9, calls=3) for call in (whole, cut, merged))
            cells = [f"{one:.0f}", *(f"{us / one:.2f}" for us in rest), f"{on_host(merged):.0f}"]
            print(f"| {ranks}, {name} | {' | '.join(cells)} |", flush=True)


PIECES = [
    (128, 128, 24), (288, 288, 24), (576, 576, 24), (576, 4608, 24), (1152, 1152, 24), (2112, 264, 24),
    (264, 2112, 24), (2112, 2112, 3), (2112, 2112, 24), (4224, 4224, 24), (4608, 4608, 3), (16896, 16896, 3),
    (9450, 9450, 5), (9450, 9450, 40),
]  # fmt: skip
"""Queries, keys and heads of 128."""


def pieces() -> None:
    """Blocks of few queries, keys or heads, and packing and merging what comes of them, without launches."""
    run = choose(None, DEVICE, DTYPE).run
    print("\n| queries, keys, heads | attending, us | packing, us | merging, us |\n|" + " --- |" * 4)
    for queries, keys, heads in PIECES:
        q, k, out = random(heads, queries), random(heads, keys), random(heads, queries, torch.float32)
        lse, other = torch.randn(2, 1, heads, queries, device=DEVICE)
        guest = Accumulator(tuple(q.shape), DEVICE)
        guest.add(q, lse, owned=True)
        message, lse_message = torch.empty_like(q), torch.empty_like(lse)
        calls = (
            partial(run, q, k, k, scale=None, causal=False),
            partial(guest.write, message, lse_message),
            partial(fused.fold_, out, lse, q, other),
        )
        cells = [f"{captured(call):.1f}" for call in calls]
        print(f"| {queries}, {keys}, {heads} | {' | '.join(cells)} |", flush=True)


POST = 5e-6
"""Seconds of Python for a message that is handed to nobody."""


class Alone:
    """A transport that sends nothing: what is left of a call is a rank's own work."""

    in_order = True

    def __init__(self, world_size: int) -> None:
        self.rank, self.world_size, self.buffers = 0, world_size, Buffers()

    def begin(self, name: str, programs: Sequence[RankProgram], dtype: torch.dtype, partial_dtype: torch.dtype) -> None:
        """Nothing to make ready."""

    def end(self) -> None:
        """Nothing was sent."""

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> list[Alone]:
        """Nothing is sent."""
        return [self] * (len(recvs) + len(sends))

    def all_gather(self, channel: str, coming: Tensor, own: Tensor) -> None:
        """Nothing is sent."""

    def all_to_all(self, channel: str, coming: Tensor, going: Tensor, rows: Sequence[int], sent: Sequence[int]) -> None:
        """Nothing is sent."""

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Nothing comes."""

    def gave_up(self, error: BaseException) -> bool:
        """Nothing is waited for."""
        return False

    def wait(self) -> None:
        """Nothing comes."""


SCHEDULES = ("ring", "token_ring", "bidirectional", "direct", "heads", "token_ring:chunks=4")


def calls() -> None:
    """Whole schedules on one rank that sends nothing, and as simulated on links that take no time."""
    kernel = choose(None, DEVICE, DTYPE).run
    machine = calibrate(DEVICE, DTYPE, 24, 128, ranks_here=1, ranks=1)
    print(f"\n{machine.attend_rate / 1e12:.0f} TFLOP/s, {machine.fold_rate / 1e9:.0f} GB/s merged, as calibrated")
    machine = replace(machine, launches=replace(machine.launches, message=POST, call=0.0))
    print("\n| ranks, shape, schedule | launched, us | simulated | captured, us | simulated | host, us |", end="")
    print("\n|" + " --- |" * 6)
    for name, ranks in (*((name, 8) for name in SHAPES), ("Flux 1024", 2), ("Flux 1024", 4), ("Flux 2048", 4)):
        tokens, heads = SHAPES[name]
        length = tokens // ranks
        q, k, v = (random(heads, length) for _ in range(3))
        problem = Problem.even(ranks, length * ranks, heads, 128, element_bytes=DTYPE.itemsize)
        network = load_topology(f"mesh:{ranks}:1000tbit")
        for schedule in SCHEDULES:
            verified = build(schedule, ranks, Mask.FULL, heads)
            transport = Alone(ranks)

            def call(
                verified: VerifiedSchedule = verified,
                problem: Problem = problem,
                transport: Alone = transport,
                tensors: tuple[Tensor, Tensor, Tensor] = (q, k, v),
            ) -> None:
                programs = proved(verified, problem, in_order=True)
                RankRun("", programs, transport, LocalAttention(kernel, None), *tensors).run()

            launched, replayed = (
                simulate(verified, network, problem, cost).makespan * 1e6 for cost in (machine, machine.captured())
            )
            cells = [on_device(call, rounds=9, calls=3), launched, captured(call, calls=3), replayed, on_host(call)]
            row = " | ".join(f"{us:.0f}" for us in cells)
            print(f"| {ranks}, {name}, `{schedule}` | {row} |", flush=True)


def posts() -> None:
    """What the host takes to hand transfers to NCCL: this rank sends to itself."""
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29777", rank=0, world_size=1)
    group = dist.group.WORLD
    assert group is not None
    there, here = (torch.ones(1 << 16, device=DEVICE) for _ in range(2))
    gathered = torch.empty((1, 1 << 16), device=DEVICE)
    dist.barrier(device_ids=[0])

    def post() -> None:
        group._start_coalescing(DEVICE)
        group.recv([here], 0, 0)
        group.send([there], 0, 0)
        group._end_coalescing(DEVICE).wait()

    print(f"\nHost: {on_host(post):.0f} us for a send and a receive that are posted together, ", end="")
    print(f"{on_host(lambda: dist.all_gather_into_tensor(gathered, there)):.0f} us for an all-gather.")
    dist.destroy_process_group()


def main() -> None:
    """Print everything."""
    torch.cuda.set_device(DEVICE)
    print(f"{torch.cuda.get_device_name(DEVICE)}, torch {torch.__version__}, {DTYPE}\n")
    kernels()
    merges()
    blocks()
    pieces()
    calls()
    posts()


if __name__ == "__main__":
    main()
