"""Processes in the place of GPUs: what torch's symmetric memory and streams do, with memory that processes share.

Everything above runs as it is: the transport, the areas, the agreement of ranks and what they say of one that is lost.
As on a GPU a wait that takes too long ends everything that this process is asked for afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tokenring_xdit.attention.transport import opening as transports
from tokenring_xdit.attention.transport import torch_memory
from tokenring_xdit.attention.transport.shared_memory import SMALLEST, SharedMemory
from tokenring_xdit.attention.transport.streamed import StreamedTransport
from tokenring_xdit.attention.transport.torch_memory import TorchMemory
from tokenring_xdit.attention.waits import GaveUp

_PAD = 64 << 10

_LOOK = 0.0002


class Gpu:
    """What is left of this process's GPU."""

    dead = ""

    def check(self) -> None:
        """Raise as CUDA does once it has given up."""
        if self.dead:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    def wait(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait as a kernel of torch's does."""
        end = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > end:
                self.dead = what
            time.sleep(_LOOK)


class Handle:
    """What torch's ``rendezvous`` returns."""

    def __init__(self, area: SharedMemory, size: int, gpu: Gpu) -> None:
        self.rank, self.world_size = area.rank, area.world_size
        self._area, self._size, self._gpu = area, size, gpu
        self._pads = [
            area.memory(rank)[size : size + _PAD].view(torch.int32).numpy() for rank in range(self.world_size)
        ]

    def get_buffer(self, rank: int, sizes: Sequence[int], dtype: torch.dtype, storage_offset: int = 0) -> Tensor:
        """A rank's memory."""
        return self._area.memory(rank)[: self._size].view(dtype)[storage_offset:].view(*sizes)

    def put_signal(self, dst_rank: int, channel: int = 0, timeout_ms: int = 0) -> None:
        """Put a signal up, once it is down."""
        pad, at = self._pads[dst_rank], channel * self.world_size + self.rank
        self._gpu.wait(lambda: pad[at] == 0, timeout_ms / 1000, f"telling rank {dst_rank}")
        pad[at] = 1

    def wait_signal(self, src_rank: int, channel: int = 0, timeout_ms: int = 0) -> None:
        """Put a signal down, once it is up."""
        pad, at = self._pads[self.rank], channel * self.world_size + src_rank
        self._gpu.wait(lambda: pad[at] == 1, timeout_ms / 1000, f"waiting for rank {src_rank}")
        pad[at] = 0

    def barrier(self, channel: int = 0, timeout_ms: int = 0) -> None:
        """Wait for all."""
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        for rank in others:
            self.put_signal(rank, channel, timeout_ms)
        for rank in others:
            self.wait_signal(rank, channel, timeout_ms)


class Module:
    """``torch.distributed._symmetric_memory``."""

    def __init__(self, gpu: Gpu, opening: Callable[[], None]) -> None:
        self._gpu, self.opening = gpu, opening
        self._SymmetricMemory = SimpleNamespace(signal_pad_size=9216, empty_strided_p2p=self._empty)

    def get_signal_pad_size(self) -> int:
        """As torch says without being asked for more."""
        return int(self._SymmetricMemory.signal_pad_size)

    def set_signal_pad_size(self, size: int) -> None:
        """As is asked for."""
        assert size <= _PAD
        self._SymmetricMemory.signal_pad_size = size

    @staticmethod
    def _empty(size: tuple[int], stride: tuple[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Says how much is asked for."""
        return torch.empty(size, dtype=dtype)

    def rendezvous(self, tensor: Tensor, group: dist.ProcessGroup) -> Handle:
        """Makes the memory, once all ranks have come, for which it waits without a limit of its own."""
        self.opening()

        def swap(value: Any) -> list[Any]:
            found: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(found, value, group=group)
            return found

        swap(None)
        area = SharedMemory(dist.get_rank(group), dist.get_world_size(group), swap)
        area.grow(tensor.numel() + _PAD)
        return Handle(area, tensor.numel(), self._gpu)


class _Done:
    """A point of a lane."""

    def __init__(self) -> None:
        self.over, self.error = threading.Event(), None

    def wait(self) -> None:
        """Until the lane has come there."""
        self.over.wait()
        if self.error is not None:
            raise self.error


class Lanes:
    """Threads for streams."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._queues: dict[str, SimpleQueue[tuple[Sequence[Callable[[], object]], Any]]] = {}
        self._marks: list[Any] = []

    def begin(self) -> None:
        """Raise what has failed."""
        try:
            self._gpu.check()
        except RuntimeError as error:
            raise GaveUp(str(error)) from error

    def run(self, channel: str, operations: Sequence[Callable[[], object]]) -> _Done:
        """Have the thread of a channel do it."""
        if channel not in self._queues:
            self._queues[channel] = SimpleQueue()
            threading.Thread(target=self._serve, args=(self._queues[channel],), daemon=True).start()
        self._marks.append(_Done())
        self._queues[channel].put((operations, self._marks[-1]))
        done: _Done = self._marks[-1]
        return done

    @staticmethod
    def _serve(queue: SimpleQueue[tuple[Sequence[Callable[[], object]], Any]]) -> None:
        while True:
            operations, mark = queue.get()
            try:
                for operation in operations:
                    operation()
            except RuntimeError as error:
                mark.error = error
            mark.over.set()

    def end(self) -> None:
        """Wait for all of them."""
        marks, self._marks = self._marks, []
        for mark in marks:
            mark.wait()


@contextmanager
def as_gpus(opening: Callable[[], None] = lambda: None) -> Iterator[Gpu]:
    """Have groups that share memory for the first time inside take processes for GPUs.

    Args:
        opening: Called before the memory of other ranks is opened.
    """
    gpu = Gpu()
    module = Module(gpu, opening)

    def over(
        group: dist.ProcessGroup,
        device: torch.device,
        swap: Any,
        wait: object,
        bound: Callable[[], float],
        together: Any,
    ) -> StreamedTransport:
        memory = TorchMemory(group, dist.get_rank(group), dist.get_world_size(group), device, swap, together)
        memory.grow(SMALLEST)
        return StreamedTransport(memory, Lanes(gpu), bound)

    with (
        mock.patch.object(transports, "over_memory", over),
        mock.patch.object(torch_memory, "symmetric_memory", return_value=module),
        mock.patch.object(torch.cuda, "synchronize"),
        mock.patch.object(torch.cuda, "set_device"),
        mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=False),
    ):
        yield gpu


class _RecordedMark:
    """A point of a lane, in the call that was recorded or in its last replay."""

    def __init__(self, mark: Any, steps: list[Callable[[], object]]) -> None:
        self.mark, self._steps = mark, steps

    def wait(self) -> None:
        """Now, and in each replay."""
        self.mark.wait()

        def again() -> None:
            self.mark.wait()

        self._steps.append(again)


@contextmanager
def recorded(steps: list[Callable[[], object]]) -> Iterator[None]:
    """Note what streams are asked for, as a CUDA graph does: the same operations on the same memory, the same signals.

    Args:
        steps: Where to; what is asked for on other threads belongs to lanes.
    """
    own = threading.get_ident()

    def noting(owner: type, name: str) -> Any:
        original = getattr(owner, name)

        def noted(self: Any, *args: Any) -> None:
            with _disable_current_modes():
                original(self, *args)
            if threading.get_ident() == own:
                steps.append(lambda: original(self, *args))

        return mock.patch.object(owner, name, noted)

    run = Lanes.run

    def run_and_note(self: Lanes, channel: str, operations: Sequence[Callable[[], object]]) -> _RecordedMark:
        with _disable_current_modes():
            found = _RecordedMark(run(self, channel, operations), steps)

        def again() -> None:
            found.mark = run(self, channel, operations)

        steps.append(again)
        return found

    with (
        noting(TorchMemory, "barrier"),
        noting(TorchMemory, "wait_signal"),
        noting(Lanes, "end"),
        mock.patch.object(Lanes, "run", run_and_note),
    ):
        yield
