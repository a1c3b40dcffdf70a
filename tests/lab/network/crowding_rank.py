"""What each rank runs in the test of the order of packets: attention whose messages keep links and processors busy."""

import os

import torch
import torch.distributed as dist

from tokenring_xdit.attention import token_ring_attention
from tokenring_xdit.lab.network import INIT_METHOD_VARIABLE


def main() -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=os.environ[INIT_METHOD_VARIABLE], rank=rank, world_size=world)
    q, k, v = torch.randn(3, 1, 8, 512, 64)
    for _ in range(6):
        for schedule in ("heads:peers=1", "bidirectional"):
            token_ring_attention(q, k, v, schedule=schedule)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
