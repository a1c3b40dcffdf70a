"""A program for the launch scripts: TokenRing attention over all ranks, compared with fp64 softmax.

Every rank prints one line of JSON, in one write, and ends with 1 where its share is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention import token_ring_attention

TOKENS, HEADS, WIDTH = 96, 4, 32
"""Of each rank."""


def main() -> int:
    """Run as one rank.

    Returns:
        0 where this rank's share of the output is right.
    """
    dist.init_process_group("gloo", timeout=timedelta(seconds=180))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(5)
    q, k, v = torch.randn(3, 1, HEADS, TOKENS * ranks, WIDTH).unbind()
    mine = slice(rank * TOKENS, (rank + 1) * TOKENS)
    out, _ = token_ring_attention(*(t[:, :, mine].contiguous() for t in (q, k, v)))
    error = relative_error(out, softmax_attention(q, k, v)[0][:, :, mine])
    dist.destroy_process_group()
    line = {
        "rank": rank,
        "ranks": ranks,
        "error": error,
        "arguments": sys.argv[1:],
        "network": os.readlink("/proc/self/ns/net"),
        "variables": {n: v for n, v in os.environ.items() if n.startswith(("CUDA_", "NCCL_", "GLOO_"))},
    }
    os.write(1, (json.dumps(line) + "\n").encode())
    return int(not error < 1e-5)


if __name__ == "__main__":
    sys.exit(main())
