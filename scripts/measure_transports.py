"""Times attention calls over shared memory and over gloo, by turns in the same ranks of this machine.

``python scripts/measure_transports.py --ranks 2 --tokens 4096 --schedule token_ring``, on an idle machine.
``--no-kernel`` leaves attention itself out, so that what is left is what carries blocks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import token_ring_attention
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE, Wanted

WARM, CALLS = 3, 3


def no_kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Nothing is attended."""
    return torch.zeros_like(q), torch.zeros(q.shape[:-1])


def rank_main(rank: int, file: str, args: argparse.Namespace) -> None:
    """What each rank does."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=args.ranks)
    q, k, v = (torch.randn(1, args.heads, args.tokens // args.ranks, args.head_dim) for _ in range(3))
    groups = {wanted: dist.new_group(list(range(args.ranks))) for wanted in Wanted}

    def call(wanted: Wanted, times: int) -> float:
        os.environ[TRANSPORT_VARIABLE] = wanted.value
        dist.barrier()
        start = time.perf_counter()
        for _ in range(times):
            kernel = no_kernel if args.no_kernel else None
            token_ring_attention(q, k, v, group=groups[wanted], schedule=args.schedule, kernel=kernel, cache_key="same")
        return (time.perf_counter() - start) / times

    for wanted in Wanted:
        call(wanted, WARM)
    found: dict[Wanted, list[float]] = {wanted: [] for wanted in Wanted}
    for turn in range(args.rounds):
        for wanted in list(Wanted)[:: 1 if turn % 2 else -1]:
            found[wanted].append(call(wanted, CALLS))
    if rank == 0:
        for wanted, seconds in found.items():
            print(
                f"{wanted.value}: median {statistics.median(seconds) * 1e3:.3f} ms, least {min(seconds) * 1e3:.3f} ms"
            )
    dist.barrier()
    os._exit(0)  # groups would say on their way out that others are gone


def main() -> None:
    """Start the ranks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("ranks", 2), ("tokens", 4096), ("heads", 8), ("head-dim", 64), ("rounds", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--schedule", default="token_ring")
    parser.add_argument("--no-kernel", action="store_true")
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {args}")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=rank_main, args=(r, f"{folder}/store", args)) for r in range(args.ranks)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(600)
        for rank in ranks:
            rank.kill()


if __name__ == "__main__":
    main()
