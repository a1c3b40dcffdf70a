"""What a rank holds in memory while it serves a request: measured, not worked out."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

from tokenring_xdit.pipelines.messages import MemoryUse

__all__ = ["PeakMeter"]

_PROCESS, _MACHINE = Path("/proc/self"), Path("/proc/meminfo")

_GROUP = Path("/sys/fs/cgroup")
"""Of a container: what all processes in it may hold together."""

_FORGET_PEAK = "5"
"""What is written to ``clear_refs`` to have the peak counted from now on."""

_NOISE = 1 << 24
"""Bytes that a peak may be above what is held, just after it was forgotten."""


class PeakMeter:
    """Measures a rank: of a GPU what torch allocates there, without one what is resident of the process.

    To be made once the model has loaded.

    Args:
        device: Where the rank computes.
        ranks: Ranks of this machine, which share its memory where there is no GPU.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self._device, self._ranks = device, ranks
        self._model = self._held()
        self._counts = False

    def begin(self) -> None:
        """Count the peak from now on."""
        self._counts = True
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)  # not run on a GPU
            return
        _give_back()
        try:
            (_PROCESS / "clear_refs").write_text(_FORGET_PEAK)
        except OSError:
            self._counts = False
            return
        held, peak = self._held(), self._peak()
        self._counts = held is not None and peak is not None and peak <= held + _NOISE

    def end(self) -> MemoryUse | None:
        """What was held since; ``None`` where this system does not tell."""
        peak, held, free = self._peak(), self._held(), self._free()
        if not self._counts or self._model is None or peak is None or held is None or free is None:
            return None
        return MemoryUse(self._model, peak, held + free)

    def _held(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _kilobytes(_PROCESS / "status", "VmRSS")

    def _peak(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _kilobytes(_PROCESS / "status", "VmHWM")

    def _free(self) -> int | None:
        """Bytes that this rank could take now; ranks take about as much, each."""
        if self._device.type == "cuda":
            unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            return int(torch.cuda.mem_get_info(self._device)[0]) + unused
        available = _kilobytes(_MACHINE, "MemAvailable")
        if available is None:
            return None
        return min(available, _left_in_group(available)) // self._ranks


def _give_back() -> None:
    """Let the system have what was freed and is kept by glibc for later: it would be counted for the next request."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _left_in_group(otherwise: int) -> int:
    try:
        most, taken = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # there is no limit, or no such file
        return otherwise
    return min(most, max(0, most - taken) + _unused_cache())


def _unused_cache() -> int:
    """Bytes of files that a container's limit counts, and that the system drops where memory is wanted.

    Those that processes have mapped are left out: weights, say, which would have to be read again at once.
    """
    try:
        found = dict(re.findall(r"^(\w+) ([0-9]+)$", (_GROUP / "memory.stat").read_text(), re.MULTILINE))
    except OSError:
        return 0
    cached, mapped, shared = (
        sum(int(found.get(name, 0)) for name in names)
        for names in (("active_file", "inactive_file"), ("file_mapped",), ("shmem",))
    )
    return max(0, cached - max(0, mapped - shared))  # memory that processes share may be mapped, and is no cache


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+([0-9]+) kB$", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])
