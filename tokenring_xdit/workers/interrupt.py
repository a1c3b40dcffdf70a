"""Ctrl-C in a command, from its first moment on: one line and exit code 130, never a traceback, never unheard."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["INTERRUPTED", "interruptible"]

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""

_IMPORTING = "<frozen importlib._bootstrap>"


def interruptible(command: Callable[[], int]) -> int:
    """Run a command that Ctrl-C interrupts.

    Libraries that are being imported may swallow a ``KeyboardInterrupt`` or make another error of it. So the process
    ends at once where it is pressed during an import, unless it has started processes, which have to be ended first.

    Args:
        command: Returns its exit code.

    Returns:
        That, or :data:`INTERRUPTED`.
    """
    pressed = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        if _is_importing(frame) and not _has_children():
            _say()
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    heard = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, interrupt)
    try:
        code = command()
    except KeyboardInterrupt:
        pressed = True
    except BaseException:
        if not pressed:
            raise
    finally:
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if not pressed:
        return code
    _say()
    return INTERRUPTED


def _say() -> None:
    if sys.stderr is not None:
        print("tokenring-xdit: interrupted", file=sys.stderr, flush=True)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
