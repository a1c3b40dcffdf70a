"""What blocks look like in memory and on the wire, for the shapes that the ranks agreed on.

A block of queries is one message, keys and values are two. A partial output and its log-sum-exp are
one: bytes, the output in the travelling dtype, then the fp32 log-sum-exp.
"""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.schedule import Block, Kind

__all__ = ["Messages", "messages_of"]

_ALIGNMENT = 16
"""Bytes: the log-sum-exp behind a partial output starts at a multiple of this."""


class Messages:
    """Shapes and places of blocks; the same on all ranks.

    Args:
        layout: What the ranks agreed on.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.slices = cache(self._slices)
        self.shapes = cache(self._shapes)
        self._partial_bytes = cache(self._measure_partial)

    def _slices(self, block: Block) -> tuple[slice, slice]:
        """Where a block lies in its owner's tensors: tokens and heads."""
        spec = self.layout.spec
        keys = block.kind is Kind.KV
        lengths, heads = (self.layout.kv_lengths, spec.kv_heads) if keys else (self.layout.q_lengths, spec.heads)
        return slice(*block.tokens.bounds(lengths[block.owner])), slice(*block.heads.bounds(heads))

    def _shapes(self, block: Block) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each message that carries a block."""
        if block.kind is Kind.O:
            return [((self._partial_bytes(block)[2],), torch.uint8)]
        return [(self.shape(block), self.layout.spec.dtype)] * (1 if block.kind is Kind.Q else 2)

    def shape(self, block: Block) -> tuple[int, int, int, int]:
        """Shape of a block's tensors, ``[B, H, S, D]``; for a partial output that of the output."""
        tokens, heads = self.slices(block)
        spec = self.layout.spec
        return spec.batch, heads.stop - heads.start, tokens.stop - tokens.start, spec.head_dim

    def cut(self, tensor: Tensor, held: Block, block: Block) -> Tensor:
        """The part of a held block's tensor that is ``block``."""
        if held == block:
            return tensor
        (tokens, heads), (base_tokens, base_heads) = self.slices(block), self.slices(held)
        return tensor[
            :,
            heads.start - base_heads.start : heads.stop - base_heads.start,
            tokens.start - base_tokens.start : tokens.stop - base_tokens.start,
        ]

    def partial_views(self, message: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp inside the message of a partial output."""
        size, offset, _ = self._partial_bytes(block)
        shape = self.shape(block)
        out = message[:size].view(self.layout.spec.partial_dtype).view(shape)
        return out, message[offset:].view(torch.float32).view(shape[:-1])

    def _measure_partial(self, block: Block) -> tuple[int, int, int]:
        """Where the output ends, where the log-sum-exp starts, and where the message ends."""
        batch, heads, length, head_dim = self.shape(block)
        rows = batch * heads * length
        size = rows * head_dim * self.layout.spec.partial_dtype.itemsize
        offset = -(-size // _ALIGNMENT) * _ALIGNMENT
        return size, offset, offset + rows * torch.float32.itemsize


@lru_cache(maxsize=64)
def messages_of(layout: Layout) -> Messages:
    """The one for a layout, which calls with the same shapes share."""
    return Messages(layout)
