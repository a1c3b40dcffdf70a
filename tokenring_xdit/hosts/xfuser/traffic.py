"""Counts the attention bytes that a rank sends, whichever strategy sends them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import bytes_sent
from tokenring_xdit.hosts.xfuser.choice import current_choice

__all__ = ["Traffic", "count_traffic"]


class Traffic:
    """Payload bytes that this rank hands to the network for attention.

    Attributes:
        bytes: For Ulysses what its all-to-alls send to other ranks, for xfuser's Ring what the
            all-gather of keys and values delivers to the others, for TokenRing what its sends carry.
            Headers, and the final gather of the picture, are not in it.
    """

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count what the attention calls inside send from this rank."""
    from xfuser.model_executor.layers import usp

    traffic = Traffic()
    all_to_all, ring_attn = usp._sdpa_all_to_all_single, usp.ring_attn

    def counting_all_to_all(x: Tensor) -> Any:
        ranks = dist.get_world_size(usp.PROCESS_GROUP.ULYSSES_PG)
        traffic.bytes += x.nbytes * (ranks - 1) // ranks
        return all_to_all(x)

    def counting_ring_attn(function: Any, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        group = usp.PROCESS_GROUP.RING_PG
        if current_choice() is None:
            traffic.bytes += (key.nbytes + value.nbytes) * (dist.get_world_size(group) - 1)
            return ring_attn(function, query, key, value, **kwargs)
        before = bytes_sent(group)
        out = ring_attn(function, query, key, value, **kwargs)
        traffic.bytes += bytes_sent(group) - before
        return out

    usp._sdpa_all_to_all_single, usp.ring_attn = counting_all_to_all, counting_ring_attn
    try:
        yield traffic
    finally:
        usp._sdpa_all_to_all_single, usp.ring_attn = all_to_all, ring_attn
