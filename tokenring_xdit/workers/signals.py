"""What Ctrl-C, SIGTERM and SIGHUP do while something has to be taken down again."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["CountedInterrupts", "interruptions_wait", "termination_raises"]

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def termination_raises() -> Iterator[None]:
    """Have SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, where they would end the process at once."""

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    changed: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        changed = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for each in changed:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each in changed:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def interruptions_wait() -> Iterator[None]:
    """Put off Ctrl-C, SIGTERM and SIGHUP until the block is over."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals interrupt the main thread only
        return
    arrived: list[int] = []
    changeable = [s for s in _INTERRUPTIONS if signal.getsignal(s) is not None]  # None is not from Python
    handlers = {s: signal.signal(s, lambda signum, frame: arrived.append(signum)) for s in changeable}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    for signum in dict.fromkeys(arrived):
        signal.raise_signal(signum)


class CountedInterrupts:
    """Inside, Ctrl-C is counted instead of raised: in the main thread, and where nobody else cares for it.

    Args:
        on_interrupt: Called for each.

    Attributes:
        count: How many there were.
    """

    def __init__(self, on_interrupt: Callable[[], None]) -> None:
        self.count = 0
        self._on_interrupt = on_interrupt
        self._counting = False

    def __enter__(self) -> CountedInterrupts:
        main = threading.current_thread() is threading.main_thread()
        self._counting = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._counting:
            signal.signal(signal.SIGINT, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._counting:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _count(self, *_: object) -> None:
        self.count += 1
        self._on_interrupt()

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Inside, they are raised again: while a callback runs, which is the user's to interrupt."""
        if not self._counting:
            yield
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._count)
