"""Memory of GPUs of one machine that reach each other's, by torch's symmetric memory: the areas of :mod:`.streamed`.

Written against what torch documents of it, which it calls alpha. **None of this has run on a GPU.**
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.waits import Broken, GaveUp
from tokenring_xdit.compat.torch import symmetric_memory, symmetric_memory_lacks

__all__ = ["OVERLAPPING_VARIABLE", "CudaLanes", "TorchMemory", "reach", "unsupported"]

OVERLAPPING_VARIABLE = "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES"
"""Environment variable of torch: 1 lets several ranks of a group be on one GPU."""

_QUEUES_VARIABLE = "CUDA_DEVICE_MAX_CONNECTIONS"
"""Environment variable of CUDA: in how many queues the work of all streams stands before a GPU; 8 by default."""

_PAGE = 2 << 20
"""Bytes: CUDA gives memory to other processes in multiples of this."""

_PAD = 64 << 10
"""Bytes of signals that are asked for: 2048 between two of 8 ranks."""

_SIGNAL_BYTES = 4

_left: list[Any] = []
"""Memory of groups that were given up."""


def unsupported(device: torch.device) -> str | None:
    """Why a GPU cannot do it, whoever the others are; ``None`` where it may.

    Args:
        device: Where the tensors are.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return f"it is for processors and NVIDIA's GPUs, not for {'ROCm' if device.type == 'cuda' else device.type}"
    lacks = symmetric_memory_lacks()
    if lacks:
        return f"torch {torch.__version__} has no torch.distributed._symmetric_memory.{lacks[0]}"
    chosen = symmetric_memory().get_backend(device)
    if chosen not in (None, "CUDA"):
        return f"torch's symmetric memory is set to {chosen}, and CUDA is needed"
    if os.environ.get(_QUEUES_VARIABLE) == "1":  # what one stream waits for may stand behind it
        return f"{_QUEUES_VARIABLE}=1 has streams wait for each other: leave it out"
    return None


def reach(device: torch.device) -> tuple[int, str, tuple[str, ...]]:
    """Number of a GPU in this process, its name, the same for all processes, and whose memory it does not reach.

    Args:
        device: The GPU.

    Returns:
        Of those that it does not reach the names, as far as this process sees them.
    """
    own = device.index if device.index is not None else torch.cuda.current_device()
    names = [str(torch.cuda.get_device_properties(each).uuid) for each in range(torch.cuda.device_count())]
    cut_off = [
        name
        for each, name in enumerate(names)
        if each != own and not torch.cuda.can_device_access_peer(own, each)
    ]  # fmt: skip
    return own, names[own], tuple(cut_off)


class TorchMemory:
    """The areas of the ranks of a group, one GPU each.

    Args:
        group: The group.
        rank: This rank.
        world_size: Ranks of the group.
        device: This rank's GPU.
        swap: Gives every rank a value of each; all of them call it.
        together: Returns what a job does that blocks until all ranks have come; it raises on all of them where one
            does not, or fails.

    Attributes:
        rank: This rank.
        world_size: Ranks of the group.
        size: Bytes of the area of each rank; none before :meth:`grow`.
        numbers: How many signals each rank has for each other one, the same on all ranks; none before :meth:`grow`.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        rank: int,
        world_size: int,
        device: torch.device,
        swap: Callable[[Any], list[Any]],
        together: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self.rank, self.world_size, self.size, self.numbers = rank, world_size, 0, 0
        self._together = together
        self._group, self._device, self._swap = group, device, swap
        self._torch = symmetric_memory()
        self._own: Tensor | None = None
        self._handle: Any = None
        self._captured = False
        self._kept: list[Any] = []  # what graphs use still

    def grow(self, size: int) -> None:
        """Make larger areas in place of those that there are, on all ranks together.

        Raises:
            Broken: Some rank could not, or a CUDA graph is being captured; the same on all of them.
            CommunicationError: A rank did not come, or could not reach the memory of the others.
        """
        if torch.cuda.is_current_stream_capturing():
            raise Broken(
                "memory that GPUs share cannot be made while a CUDA graph is captured: run the call once before that"
            )
        size = -(-size // _PAGE) * _PAGE
        torch.cuda.synchronize(self._device)  # nothing is under way in the old areas once all ranks are here
        self._agree("")
        if self._captured:
            self._kept.append((self._own, self._handle))
        self._own, self._handle, self._captured = None, None, False
        with self._larger_pads() as numbers:
            own, handle = self._make(size)
        self.numbers = min(self._swap(numbers))
        self._own, self._handle, self.size = own, handle, size

    def _make(self, size: int) -> tuple[Tensor, Any]:
        problem, own = "", torch.empty(0)
        try:
            # Not from a pool of torch's: memory that one rank gets again and another anew they would not find together.
            own = self._torch._SymmetricMemory.empty_strided_p2p((size,), (1,), torch.uint8, self._device)
        except RuntimeError as error:
            problem = f"rank {self.rank} cannot make {size} bytes of memory that GPUs share: {_first_line(error)}"
        self._agree(problem)
        handle = self._together(partial(self._reach, own))
        if (handle.rank, handle.world_size) != (self.rank, self.world_size):
            problem = f"torch takes rank {self.rank} for rank {handle.rank} of {handle.world_size}"
        self._agree(problem)
        return own, handle

    def _reach(self, own: Tensor) -> Any:
        torch.cuda.set_device(self._device)  # of this thread
        return self._torch.rendezvous(own, self._group)

    @contextmanager
    def _larger_pads(self) -> Iterator[int]:
        """Have torch make memory with room for more signals, and say how many numbers this memory may use.

        torch has one size for all memory that it makes, and asks it again for memory that others have made before.
        """
        before = int(self._torch._SymmetricMemory.signal_pad_size)
        with suppress(AttributeError, RuntimeError):  # it cannot be set
            self._torch.set_signal_pad_size(max(_PAD, before))
        pad = int(self._torch._SymmetricMemory.signal_pad_size)
        try:
            # What torch checks of a number allows more than there is room for, mostly.
            yield min(pad // _SIGNAL_BYTES // self.world_size, before // _SIGNAL_BYTES * self.world_size)
        finally:
            with suppress(AttributeError, RuntimeError):
                self._torch.set_signal_pad_size(before)

    def _agree(self, problem: str) -> None:
        said = next((theirs for theirs in self._swap(problem) if theirs), "")
        if said:
            raise Broken(said)

    def memory(self, rank: int) -> Tensor:
        """The bytes of a rank's area."""
        found: Tensor = self._handle.get_buffer(rank, (self.size,), torch.uint8)
        return found

    def copy(self, place: Tensor, message: Tensor) -> None:
        """Write a message into a rank's area: both are contiguous bytes, so that a copy engine does it."""
        place.copy_(message, non_blocking=True)

    def put_signal(self, peer: int, number: int, seconds: float) -> None:
        """Put a signal of another rank up, once it is down."""
        self._handle.put_signal(peer, channel=number, timeout_ms=_milliseconds(seconds))

    def wait_signal(self, peer: int, number: int, seconds: float) -> None:
        """Wait until that signal of another rank is up, and put it down."""
        self._handle.wait_signal(peer, channel=number, timeout_ms=_milliseconds(seconds))

    def barrier(self, number: int, seconds: float) -> None:
        """Wait until all ranks are here."""
        self._handle.barrier(channel=number, timeout_ms=_milliseconds(seconds))

    def keep(self) -> None:
        """Have the memory of now outlive :meth:`grow`, where a graph that is captured uses it."""
        self._captured = self._captured or torch.cuda.is_current_stream_capturing()

    def close(self) -> None:
        """Use it no longer; it stays until the process ends, as streams may be in it, for which CUDA would wait."""
        _left.append((self._own, self._handle, self._kept))
        self._own, self._handle, self._kept = None, None, []


class _Mark:
    """A point of a lane."""

    def __init__(self, event: torch.cuda.Event, device: torch.device) -> None:
        self._event, self._device = event, device

    def wait(self) -> None:
        """Have the current stream wait for it."""
        torch.cuda.current_stream(self._device).wait_event(self._event)


class CudaLanes:
    """Streams of a GPU, one for each channel, which all groups share: one call runs at a time.

    Args:
        device: The GPU.
    """

    _streams: ClassVar[dict[tuple[int, str], torch.cuda.Stream]] = {}

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._index = device.index if device.index is not None else torch.cuda.current_device()
        self._used: set[str] = set()
        self._last: torch.cuda.Event | None = None

    def _stream(self, channel: str) -> torch.cuda.Stream:
        known = self._streams.get((self._index, channel))
        if known is None:
            known = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
            self._streams[self._index, channel] = known
        return known

    def begin(self) -> None:
        """Go on behind the call before, whose stream may have been another one.

        Raises:
            GaveUp: The GPU has given up what it was asked for.
        """
        self._used.clear()
        if torch.cuda.is_current_stream_capturing():
            return  # a graph cannot wait for what is outside of it
        try:
            current = torch.cuda.current_stream(self._device)
            current.query()
            if self._last is not None:
                current.wait_event(self._last)
        except RuntimeError as error:
            raise GaveUp(_first_line(error)) from error

    def run(self, channel: str, operations: Sequence[Callable[[], object]]) -> Handle:
        """Have operations done in a lane, behind all that was asked of the current stream."""
        lane = self._stream(channel)
        lane.wait_stream(torch.cuda.current_stream(self._device))
        self._used.add(channel)
        with torch.cuda.stream(lane):
            for operation in operations:
                operation()
            return _Mark(lane.record_event(), self._device)

    def end(self) -> None:
        """Have the current stream wait for all lanes, also those that only told something."""
        current = torch.cuda.current_stream(self._device)
        for channel in sorted(self._used):
            current.wait_stream(self._stream(channel))
        if not torch.cuda.is_current_stream_capturing():
            self._last = current.record_event()


def _milliseconds(seconds: float) -> int:
    """As torch takes it, for which 0 is for ever."""
    return max(1, int(seconds * 1000))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
