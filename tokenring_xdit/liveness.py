"""Whether another process of this machine still runs, is stopped, or is gone, as ``/proc`` of Linux tells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

__all__ = ["LIMIT", "LIMIT_VARIABLE", "ProcessIdentity", "State"]

LIMIT = 30.0
"""Seconds after which a rank that died or stopped is known and named, at every surface, by default."""

LIMIT_VARIABLE = "TOKENRING_LIVENESS_LIMIT"
"""Environment variable that replaces :data:`LIMIT`, in seconds."""

_STATE, _START_TIME = 0, 19
"""Places in ``/proc/PID/stat`` of the fields behind the name: ``state`` and ``starttime`` of proc_pid_stat(5)."""


class State(Enum):
    """What a process is doing, in words that a message can use."""

    RUNNING = "runs"
    STOPPED = "is stopped"
    GONE = "is gone"


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of this machine, told from a later one of the same number.

    Attributes:
        pid: Its number.
        start: When it started, in ticks of the clock since the machine did.
    """

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int | None = None) -> ProcessIdentity:
        """The process with a number, or this one.

        Raises:
            ProcessLookupError: There is none.
        """
        pid = os.getpid() if pid is None else pid
        fields = _fields(pid)
        if fields is None:
            raise ProcessLookupError(f"there is no process {pid}")
        return cls(pid, int(fields[_START_TIME]))

    @property
    def state(self) -> State:
        """What it does now: a process that waits for its parent to take its exit code is gone."""
        fields = _fields(self.pid)
        if fields is None or int(fields[_START_TIME]) != self.start or fields[_STATE] in "ZXx":
            return State.GONE
        return State.STOPPED if fields[_STATE] in "Tt" else State.RUNNING


def _fields(pid: int) -> list[str] | None:
    """The fields behind the name, which stands in brackets and may hold blanks and brackets itself."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
