"""A process that ends with the one that started it.

``python -m tokenring_xdit.workers.lifetime PROGRAM ...`` runs a program as a rank of ``torchrun`` that ends with it;
``-m MODULE ...`` runs a module. What Linux was asked for stays with the process that becomes the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

__all__ = ["LAUNCHER_VARIABLE", "end_with_launcher", "end_with_parent"]

LAUNCHER_VARIABLE = "TOKENRING_LAUNCHER"
"""Environment variable: process id of the ``torchrun`` that starts ranks, which the launch scripts know beforehand."""

_PR_SET_PDEATHSIG = 1
_FIRST_PROCESS = 1


def end_with_parent(expected: int | None = None) -> None:
    """Ask Linux to kill this process with the thread that started it, and end at once if that is gone already.

    Args:
        expected: Process id of the parent, where it is known.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.getppid()
    if parent != expected if expected is not None else _is_foreign_init(parent):
        os._exit(1)  # nobody is left to tell


def end_with_launcher() -> None:
    """:func:`end_with_parent` in a rank of ``torchrun``, and nothing in other processes."""
    if "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ:
        launcher = os.environ.pop(LAUNCHER_VARIABLE, "")  # it is not the parent of what this process starts
        end_with_parent(int(launcher) if launcher.isdigit() else None)


def _is_foreign_init(parent: int) -> bool:
    """Whether a process was left to the first one, and that is no launcher: a container may consist of one."""
    if parent != _FIRST_PROCESS:
        return False
    try:
        return os.readlink(f"/proc/{parent}/exe") != os.readlink("/proc/self/exe")
    except OSError:
        return True


if __name__ == "__main__":
    end_with_launcher()
    os.execv(sys.executable, [sys.executable, "-u", *sys.argv[1:]])
