"""Waits that can be ended: what blocks in C++ is left to a thread; its caller waits for the thread, or for the end."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["DIRECT", "IDLE", "Broken", "Ended", "GaveUp", "OutOfStep", "Waiter"]

IDLE = "tokenring-waiter"
"""Name of a thread that is in C++ only while its caller waits for it."""

LEFT_BEHIND = "tokenring-left-behind"
"""Name of a thread whose caller waits for it no longer."""

DIRECT = 3 << 16
"""Bytes of a message up to which its transfer is waited for directly.

A wait for gloo ends when the watch closes the connections (``RingGroup.break_off``), except while its message is on
the way in part: gloo then has it on neither of the lists whose waits it ends (``Pair::signalException`` of its
``transport/tcp/pair.cc``). Such a wait ends with the group's timeout only. Messages of this size go into a socket as a
whole, whose buffer has 208 KiB or more on Linux.
"""


class Broken(Exception):  # noqa: N818
    """A transfer has failed, says torch."""


class Ended(Broken):
    """A wait was ended from outside, or has taken as long as it may."""


class GaveUp(Broken):
    """A GPU has given up all that it was asked for, as it does where it has waited for a rank too long."""


class OutOfStep(Broken):
    """A rank is at a later call, and will not do its part of this one."""


class Waiter:
    """A thread that waits for transfers in the place of the caller; made when first needed."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._ended = threading.Event()
        weakref.finalize(self, self._jobs.put, None)

    def call(self, job: Callable[[], Any], seconds: float | None) -> Any:
        """Have something done by the thread; after :class:`Ended` the thread may be in it for long.

        Raises:
            Ended: :meth:`end` was called, or the time is over.
            Exception: What the job raised.
        """
        if self._ended.is_set():
            raise Ended
        if self._thread is None:
            arguments = self._jobs, self._answers
            self._thread = threading.Thread(target=_serve, args=arguments, name=IDLE, daemon=True)
            self._thread.start()
        self._busy = True
        self._jobs.put(job)
        try:
            answer, error = self._answers.get(timeout=seconds)
        except Empty:
            self._ended.set()
            self._thread.name = LEFT_BEHIND
            raise Ended from None
        if self._ended.is_set() and error is None and answer is None:
            raise Ended
        self._busy = False
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        """End the wait that is under way, if there is one, and allow no other."""
        self._ended.set()
        if self._busy and self._thread is not None:
            self._thread.name = LEFT_BEHIND
        self._answers.put((None, None))
        self._jobs.put(None)


def _serve(jobs: SimpleQueue[Callable[[], Any] | None], answers: SimpleQueue[Any]) -> None:
    answer: tuple[Any, BaseException | None]
    while (job := jobs.get()) is not None:
        try:
            answer = job(), None
        except BaseException as error:
            answer = None, error
        del job  # it keeps messages: the caller, who goes on now, is to be the last who does
        answers.put(answer)
        del answer
