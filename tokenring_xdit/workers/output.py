"""What a rank prints, kept in memory as far as it may be wanted; and files that errors refer to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections import deque
from pathlib import Path

__all__ = ["KEPT_BYTES", "PrintedOutput", "kept_file"]

KEPT_BYTES = 1 << 20
"""The end of what a rank has printed that stays; up to as much more is held until somebody looks."""

_KEPT_FILES = 32
"""Files of this process that errors refer to; the oldest go."""

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)

_DROPPED = "(what was printed before is not kept)\n"

_files: deque[Path] = deque()


class PrintedOutput:
    """A file without a name in memory, into which a rank prints.

    The rank goes on writing behind what it has written; the beginning is given back to the system, and reads as
    nothing.

    Attributes:
        descriptor: Its file descriptor.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("tokenring-rank-output", os.MFD_CLOEXEC)
        self._dropped = 0  # bytes at the beginning that are gone

    def text(self) -> str:
        """What was printed last, in whole lines where more was printed before."""
        size = os.fstat(self.descriptor).st_size
        first = max(self._dropped, size - KEPT_BYTES)
        text = os.pread(self.descriptor, size - first, first).decode(errors="replace")
        return _DROPPED + text.partition("\n")[2] if first else text

    def trim(self) -> None:
        """Give back what is not wanted any more, once that is as much as is kept."""
        end = os.fstat(self.descriptor).st_size - KEPT_BYTES
        if end - self._dropped >= KEPT_BYTES and _punch(self.descriptor, self._dropped, end - self._dropped):
            self._dropped = end

    def close(self) -> None:
        """Forget it."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def _punch(descriptor: int, first: int, size: int) -> bool:
    """Free a part of a file; returns whether that was possible."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)
    if fallocate is None:
        return False
    offset, length = ctypes.c_int64(first), ctypes.c_int64(size)
    return bool(fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0)


def kept_file(name: str, text: str) -> Path:
    """Write what an error refers to into a folder of its own, which stays until many others were written."""
    folder = Path(tempfile.mkdtemp(prefix="tokenring-xdit-"))
    _files.append(folder)
    while len(_files) > _KEPT_FILES:
        shutil.rmtree(_files.popleft(), ignore_errors=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
