"""How long a rank is inside attention calls of xfuser and diffusers, and what it sends for them, under any strategy."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import bytes_sent
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.meters import SentBytes, Stopwatch
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.install import register
from tokenring_xdit.hosts.xfuser.supported import family_of

__all__ = ["count_traffic", "time_attention"]


@contextmanager
def time_attention(pipeline: str, device: torch.device) -> Iterator[Stopwatch]:
    """Time the attention calls of transformers inside, of xfuser's and of the unmodified one, communication included.

    Args:
        pipeline: The class of diffusers' pipeline; its family's record says what computes its attention.
        device: Where they compute.
    """
    register()
    watch = Stopwatch(device)
    with ExitStack() as stack:
        for path in family_of(pipeline).attention:
            module, _, name = path.partition(":")
            owner = importlib.import_module(module)
            timed = watch.timed(getattr(owner, name))
            stack.enter_context(INSTALLATION.replaced(owner, name, timed, "times attention"))
        yield watch


@contextmanager
def count_traffic() -> Iterator[SentBytes]:
    """Count what the attention calls inside send from this rank."""
    from xfuser.model_executor.layers import usp

    traffic = SentBytes()
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

    why = "counts what attention sends"
    with (
        INSTALLATION.replaced(usp, "_sdpa_all_to_all_single", counting_all_to_all, why),
        INSTALLATION.replaced(usp, "ring_attn", counting_ring_attn, why),
    ):
        yield traffic
