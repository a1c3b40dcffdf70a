"""Message buffers; on a CPU they outlive a call, so that no step allocates."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tokenring_xdit.attention.messages import PartialForm

__all__ = ["Buffer", "BufferPool", "Handle", "Wait"]

_KEPT_LAYOUTS = 64
"""Distinct buffer shapes kept between calls: a call over N unequal shards uses 2 N, a service with free sizes many."""


class Handle(Protocol):
    """A transfer that was posted."""

    def wait(self) -> object:
        """Wait until it is over."""


Wait = Callable[[Sequence[Handle], int], None]
"""Waits for transfers of at most this many bytes each."""

_Key = tuple[tuple[int, ...], torch.dtype, torch.device]


def _outlasting() -> AbstractContextManager[None]:
    """What is made in inference mode could not be written to by a later call outside of it."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


@dataclass(slots=True)
class Buffer:
    """Memory for one message, with the transfers that still read it."""

    tensor: Tensor
    key: _Key
    readers: list[Handle] = field(default_factory=list)
    _partial: tuple[PartialForm, tuple[Tensor, Tensor]] | None = None

    def partial_views(self, form: PartialForm) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of a partial output in here; a buffer mostly holds one form call after call."""
        if self._partial is None or self._partial[0] != form:
            with _outlasting():
                self._partial = form, form.views(self.tensor)
        return self._partial[1]

    def settle(self, wait: Wait) -> None:
        """Wait until nothing reads the memory any more."""
        if self.readers:
            wait(self.readers, self.tensor.nbytes)
            self.readers.clear()


def _wait(works: Sequence[Handle], size: int) -> None:
    for work in works:
        work.wait()


class BufferPool:
    """Free buffers by shape, dtype and device.

    Args:
        wait: Waits for transfers of at most this many bytes each.

    Attributes:
        wait: The same, for whoever uses the buffers.
    """

    def __init__(self, wait: Wait = _wait) -> None:
        self.wait = wait
        self._free: OrderedDict[_Key, deque[Buffer]] = OrderedDict()
        self._read: list[Buffer] = []  # given back while transfers read them

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Buffer:
        """A buffer that nothing reads, reused where one is free; its content is undefined."""
        key = shape, dtype, device
        free = self._free.get(key)
        if free:
            buffer = free.popleft()  # the oldest: its last transfer is the likeliest to be over
            buffer.settle(self.wait)
            return buffer
        with _outlasting():
            return Buffer(torch.empty(shape, dtype=dtype, device=device), key)

    def give(self, buffer: Buffer) -> None:
        """Hand a buffer back; transfers may still be reading it."""
        if buffer.readers:
            self._read.append(buffer)
        self._free.setdefault(buffer.key, deque()).append(buffer)
        self._free.move_to_end(buffer.key)
        while len(self._free) > _KEPT_LAYOUTS:
            for old in self._free.popitem(last=False)[1]:
                old.settle(self.wait)

    def settle(self) -> None:
        """Wait for every transfer that still reads a free buffer."""
        for buffer in self._read:
            buffer.settle(self.wait)
        self._read.clear()

    def clear(self) -> None:
        """Let all free buffers go, once nothing reads them."""
        self.settle()
        self._free.clear()
