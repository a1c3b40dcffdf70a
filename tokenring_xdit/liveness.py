"""Whether another process of this machine still runs, is stopped, or is gone, as ``/proc`` of Linux tells."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tokenring_xdit.errors import ConfigurationError

__all__ = ["LIMIT", "LIMIT_VARIABLE", "ProcessIdentity", "State", "limit", "process_space", "seconds_from", "siblings"]

LIMIT = 30.0
"""Seconds after which a rank that died or stopped is known and named, at every surface, by default."""

LIMIT_VARIABLE = "TOKENRING_LIVENESS_LIMIT"
"""Environment variable that replaces :data:`LIMIT`, in seconds."""

_LONGEST = 1e8
"""Seconds: torch counts its timeouts in milliseconds, and some years are as good as for ever."""

_STATE, _PARENT, _START_TIME = 0, 1, 19
"""Places in ``/proc/PID/stat`` of fields behind the name: ``state``, ``ppid`` and ``starttime`` of proc_pid_stat(5)."""


_WORLD = (b"WORLD_SIZE", b"MASTER_ADDR", b"MASTER_PORT")


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

    def memory(self) -> int | None:
        """Its resident bytes; ``None`` once it is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return None
        return None if self.state is State.GONE else pages * os.sysconf("SC_PAGE_SIZE")


def siblings() -> dict[int, ProcessIdentity]:
    """The ranks of this one's world that the same launcher has started on this machine, by their numbers.

    Launchers say them in the environment, as torchrun does (``RANK``, ``MASTER_PORT``). Ranks that were told otherwise
    are not found.
    """
    found: dict[int, ProcessIdentity] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = _fields(int(entry.name))
            if fields is None or int(fields[_PARENT]) != os.getppid():
                continue
            variables = dict(line.partition(b"=")[::2] for line in (entry / "environ").read_bytes().split(b"\0"))
        except OSError:  # it has ended, or belongs to somebody else
            continue
        rank = variables.get(b"RANK", b"")
        if rank.isdigit() and all(variables.get(name) == os.environb.get(name) for name in _WORLD):
            found[int(rank)] = ProcessIdentity(int(entry.name), int(fields[_START_TIME]))
    return found


def _fields(pid: int) -> list[str] | None:
    """The fields behind the name, which stands in brackets and may hold blanks and brackets itself."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def seconds_from(variable: str, default: float) -> float:
    """A limit in seconds from the environment.

    Raises:
        ConfigurationError: The variable is no positive number.
    """
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST:
        raise ConfigurationError(f"{variable}={text!r} is not a positive number of seconds")
    return seconds


def limit() -> float:
    """Seconds after which a rank that died or stopped is known: :data:`LIMIT`, or what the environment says.

    Raises:
        ConfigurationError: :data:`LIMIT_VARIABLE` is no positive number.
    """
    return seconds_from(LIMIT_VARIABLE, LIMIT)


def process_space() -> str | None:
    """What two processes have in common where each finds the other under its number in ``/proc``; ``None`` without one.

    A host's name is not enough: containers on one host may share it, and each counts its processes for itself.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
