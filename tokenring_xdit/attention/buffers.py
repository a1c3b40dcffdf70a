"""Message buffers that outlive a call, so that no step allocates."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Buffer", "BufferPool"]

_KEPT_LAYOUTS = 64
"""Distinct buffer shapes kept between calls: a call over N unequal shards uses 2 N, a service with free sizes many."""


@dataclass
class Buffer:
    """Memory for one message, with the transfers that still read it."""

    tensor: Tensor
    readers: list[dist.Work] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until nothing reads the memory any more."""
        for work in self.readers:
            work.wait()
        self.readers.clear()


class BufferPool:
    """Free buffers by shape, dtype and device."""

    def __init__(self) -> None:
        self._free: OrderedDict[tuple[tuple[int, ...], torch.dtype, torch.device], list[Buffer]] = OrderedDict()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Buffer:
        """A buffer that nothing reads, reused where one is free; its content is undefined."""
        free = self._free.get((shape, dtype, device))
        if free:
            buffer = free.pop(0)  # the oldest: its last transfer is the likeliest to be over
            buffer.settle()
            return buffer
        return Buffer(torch.empty(shape, dtype=dtype, device=device))

    def give(self, buffer: Buffer) -> None:
        """Hand a buffer back; transfers may still be reading it."""
        key = (tuple(buffer.tensor.shape), buffer.tensor.dtype, buffer.tensor.device)
        self._free.setdefault(key, []).append(buffer)
        self._free.move_to_end(key)
        while len(self._free) > _KEPT_LAYOUTS:
            for old in self._free.popitem(last=False)[1]:
                old.settle()

    def settle(self) -> None:
        """Wait for every transfer that still reads a free buffer."""
        for free in self._free.values():
            for buffer in free:
                buffer.settle()

    def clear(self) -> None:
        """Let all free buffers go, once nothing reads them."""
        self.settle()
        self._free.clear()
