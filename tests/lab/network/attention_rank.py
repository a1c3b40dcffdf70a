"""What each rank runs in the test of attention over an emulated network."""

import json
import os

import torch
import torch.distributed as dist

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention import bytes_sent, token_ring_attention
from tokenring_xdit.lab.network import INIT_METHOD_VARIABLE

TOKENS, HEADS, DIM = 128, 4, 32  # tokens of each rank


def main() -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=os.environ[INIT_METHOD_VARIABLE], rank=rank, world_size=world)
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(1, HEADS, TOKENS * world, DIM, generator=generator) for _ in range(3))
    mine = slice(rank * TOKENS, (rank + 1) * TOKENS)
    out, lse = token_ring_attention(q[:, :, mine], k[:, :, mine], v[:, :, mine])
    expected_out, expected_lse = (t[:, :, mine] for t in softmax_attention(q, k, v))
    errors = [relative_error(out, expected_out), relative_error(lse, expected_lse)]
    print(json.dumps({"rank": rank, "errors": errors, "bytes_sent": bytes_sent()}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
