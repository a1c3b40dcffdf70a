"""What blocks look like in memory and on the wire, for the shapes that the ranks agreed on.

A block of queries is one message, keys and values are two. A partial output and its log-sum-exp are
one: bytes, the output in the travelling dtype, then the fp32 log-sum-exp.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.schedule import Block, Kind

__all__ = ["Messages", "PartialForm"]

_ALIGNMENT = 16
"""Bytes: the log-sum-exp behind a partial output starts at a multiple of this."""


class PartialForm(NamedTuple):
    """How a partial output lies in its message.

    Attributes:
        shape: Shape of the output, ``[B, H, S, D]``.
        dtype: Dtype in which it travels.
        end: Byte behind the output.
        offset: Byte at which the log-sum-exp starts.
        size: Bytes of the message.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    end: int
    offset: int
    size: int

    def views(self, message: Tensor) -> tuple[Tensor, Tensor]:
        """Output ``[B, H, S, D]`` and log-sum-exp ``[B, H, S]`` inside a message."""
        out = message[: self.end].view(self.dtype).view(self.shape)
        return out, message[self.offset :].view(torch.float32).view(self.shape[:-1])


class Messages:
    """Shapes and places of blocks; the same on all ranks.

    Args:
        layout: What the ranks agreed on.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def slices(self, block: Block) -> tuple[slice, slice]:
        """Where a block lies in its owner's tensors: heads and tokens."""
        spec = self._layout.spec
        keys = block.kind is Kind.KV
        lengths, heads = (self._layout.kv_lengths, spec.kv_heads) if keys else (self._layout.q_lengths, spec.heads)
        return slice(*block.heads.bounds(heads)), slice(*block.tokens.bounds(lengths[block.owner]))

    def shape(self, block: Block) -> tuple[int, int, int, int]:
        """Shape of a block's tensors, ``[B, H, S, D]``; for a partial output that of the output."""
        heads, tokens = self.slices(block)
        spec = self._layout.spec
        return spec.batch, heads.stop - heads.start, tokens.stop - tokens.start, spec.head_dim

    def cut(self, held: Block, block: Block) -> tuple[slice, slice, slice] | None:
        """Which part of the tensors of ``held`` is ``block``; ``None`` for all of it."""
        heads, tokens = self.slices(block)
        base_heads, base_tokens = self.slices(held)
        if (heads, tokens) == (base_heads, base_tokens):
            return None
        return slice(None), _from(base_heads, heads), _from(base_tokens, tokens)

    def partial(self, block: Block) -> PartialForm:
        """How a partial output travels."""
        shape = batch, heads, length, head_dim = self.shape(block)
        dtype = self._layout.spec.partial_dtype
        rows = batch * heads * length
        end = rows * head_dim * dtype.itemsize
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        return PartialForm(shape, dtype, end, offset, offset + rows * torch.float32.itemsize)

    def payload(self, block: Block) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Shape and dtype of each message that carries a block."""
        if block.kind is Kind.O:
            return (((self.partial(block).size,), torch.uint8),)
        return ((self.shape(block), self._layout.spec.dtype),) * block.kind.messages


def _from(base: slice, part: slice) -> slice:
    return slice(part.start - base.start, part.stop - base.start)
