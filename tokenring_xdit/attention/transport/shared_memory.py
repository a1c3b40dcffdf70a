"""Memory that the ranks of one machine share, without a GPU: the areas of :mod:`.symmetric` on Linux.

An area is memory without a name (``memfd_create``): the others open it by what ``/proc`` says of its owner's files, and
it is gone with the last process that has it, whichever way that ends. It begins with numbers that one rank writes and
others read. On x86-64 a write of eight bytes is seen whole, and writes are seen in their order; other processors are
not asked to do so much. Who waits sleeps in the kernel (``futex``), because ranks may share cores.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import outlasting
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.schedule import Channel

__all__ = ["SMALLEST", "SharedMemory", "network_space", "unsupported"]

SMALLEST = 1 << 20
"""Bytes of the first areas."""

_PAGE = 4096

_TOKEN = 16
"""Bytes that distinguish an area from any other one."""

_CLOCK, _BELL, _COUNTS = 64, 128, 192
"""Bytes at which the clock is, the bell, and the counts of what came; each on a cache line of its own."""

_LINE = 64
"""Bytes of the counts of one source: eight for each channel."""

_CHANNELS = {channel.value: index for index, channel in enumerate(Channel)}

_FUTEX_NUMBER, _WAIT, _WAKE = 202, 0, 1
"""Of the system call on x86-64, and what it is asked for."""

_REST = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int

_EVERYBODY = 2**31 - 1


class _Duration(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def unsupported() -> str | None:
    """Why this machine cannot do it, if so."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"it is for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    if not hasattr(os, "memfd_create"):
        return "this Python has no memfd_create"
    return None


def network_space() -> str | None:
    """What two processes have in common that see the same network; ``None`` where that is not known."""
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return None


class _Mapping:
    """An area of a rank, as this process sees it."""

    def __init__(self, descriptor: int, size: int, header: int) -> None:
        self._map = mmap.mmap(descriptor, header + size)
        view = memoryview(self._map)
        self.token = bytes(view[:_TOKEN])
        self.numbers = view.cast("q")  # eight bytes each
        self.bell = view.cast("I")
        self.bell_address = ctypes.addressof(ctypes.c_uint32.from_buffer(self._map, _BELL))
        with outlasting():
            self.memory = torch.frombuffer(self._map, dtype=torch.uint8, offset=header, count=size)


class SharedMemory:
    """The areas of the ranks of one machine.

    Args:
        rank: This rank.
        world_size: Ranks of the group.
        swap: Gives every rank a value of each; all of them call it.

    Attributes:
        rank: This rank.
        world_size: Ranks of the group.
        size: Bytes of the area of each rank; none before :meth:`grow`.
    """

    def __init__(self, rank: int, world_size: int, swap: Callable[[Any], list[Any]]) -> None:
        self.rank, self.world_size, self.size = rank, world_size, 0
        self._swap = swap
        self._header = -(-(_COUNTS + _LINE * world_size) // _PAGE) * _PAGE
        self._mappings: list[_Mapping] = []
        self._rings = 0
        self._futex = ctypes.CDLL(None).syscall
        self._futex.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, *_REST)

    def grow(self, size: int) -> None:
        """Make larger areas in place of those that there are, on all ranks together.

        Raises:
            Broken: Some rank could not; the same on all of them.
        """
        size = -(-size // _PAGE) * _PAGE
        descriptor, token, problem = -1, secrets.token_bytes(_TOKEN), ""
        try:
            descriptor = self._make(size, token)
        except OSError as error:
            problem = f"rank {self.rank} cannot make {size} bytes of shared memory: {error.strerror}"
        try:
            told = self._swap((os.getpid(), descriptor, token, problem))
            mappings: list[_Mapping] = []
            problem = next((theirs for *_, theirs in told if theirs), "")
            for rank, (pid, number, expected, _) in enumerate(told if not problem else ()):
                try:
                    mappings.append(self._open(pid, number, size))
                    if mappings[-1].token != expected:
                        raise OSError(0, "it is another process")
                except (OSError, ValueError) as error:
                    reason = getattr(error, "strerror", None) or error
                    problem = f"rank {self.rank} cannot open the memory of rank {rank}, process {pid}: {reason}"
                    break
            problem = next((theirs for theirs in self._swap(problem) if theirs), "")
        finally:
            if descriptor >= 0:
                os.close(descriptor)  # the mappings stay
        if problem:
            raise Broken(problem)
        self._mappings, self.size = mappings, size

    def _make(self, size: int, token: bytes) -> int:
        descriptor = os.memfd_create("tokenring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, self._header + size)
            os.pwrite(descriptor, token, 0)
            # Nobody can make it smaller, which would end whoever reads it.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _open(self, pid: int, number: int, size: int) -> _Mapping:
        descriptor = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        try:
            return _Mapping(descriptor, size, self._header)
        finally:
            os.close(descriptor)

    def memory(self, rank: int) -> Tensor:
        """The bytes of a rank's area."""
        return self._mappings[rank].memory

    def copy(self, place: Tensor, message: Tensor) -> None:
        """Write a message into a rank's area.

        What torch writes is there before the number that is written next: this processor keeps the order of writes, and
        torch takes the interpreter's lock again when it is done, which ends those that pass by the cache.
        """
        place.copy_(message)

    def clock(self, rank: int) -> int:
        """How far a rank has said to be."""
        return self._mappings[rank].numbers[_CLOCK // 8]

    def tell(self, clock: int, peers: Sequence[int]) -> None:
        """Say how far this rank is."""
        self._mappings[self.rank].numbers[_CLOCK // 8] = clock
        for peer in peers:
            self._ring(peer)

    def came(self, source: int, channel: str) -> int:
        """What a rank has said that it has written here."""
        return self._mappings[self.rank].numbers[self._count(source, channel)]

    def arrive(self, peer: int, channel: str, count: int) -> None:
        """Say to a rank that so much of a channel has been written there."""
        self._mappings[peer].numbers[self._count(self.rank, channel)] = count
        self._ring(peer)

    @staticmethod
    def _count(source: int, channel: str) -> int:
        return (_COUNTS + _LINE * source) // 8 + _CHANNELS[channel]

    def bell(self) -> int:
        """A number that changes whenever this rank is woken up."""
        return self._mappings[self.rank].bell[_BELL // 4]

    def sleep(self, bell: int, seconds: float) -> None:
        """Sleep until somebody wakes this rank up, at most so long; not at all if the bell has another number."""
        address = self._mappings[self.rank].bell_address
        duration = _Duration(int(seconds), int(seconds % 1 * 1e9))
        self._futex(_FUTEX_NUMBER, address, _WAIT, bell, ctypes.addressof(duration), None, 0)

    def wake(self) -> None:
        """Wake up this rank, from another thread."""
        with suppress(IndexError):  # it was closed
            self._ring(self.rank)

    def _ring(self, peer: int) -> None:
        # A number that nobody else ever writes: a rank that has seen an earlier one does not fall asleep over it.
        self._rings = (self._rings + 1) & 0xFFFFFF
        mapping = self._mappings[peer]
        mapping.bell[_BELL // 4] = (self.rank & 0xFF) << 24 | self._rings
        self._futex(_FUTEX_NUMBER, mapping.bell_address, _WAKE, _EVERYBODY, None, None, 0)

    def close(self) -> None:
        """Let the memory go; it is freed when nothing reads it here, and no other process has it."""
        self._mappings = []
