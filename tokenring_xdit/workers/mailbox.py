"""A rank's side of the two pipes between it and whoever started it."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from multiprocessing.connection import Connection
from typing import Any

from tokenring_xdit.workers.messages import cancelled_number, pack, unpack

__all__ = ["Mailbox"]


class Mailbox:
    """The rank's ends of the pipes. The process ends as soon as the other ends are closed.

    Messages are unpickled by :meth:`next`, not where they are heard: that may import what takes seconds, in which
    nobody would notice the end of the pipe.

    Args:
        requests: File descriptor to read from.
        answers: File descriptor to write to.
    """

    def __init__(self, requests: int, answers: int) -> None:
        for descriptor in (requests, answers):
            os.set_inheritable(descriptor, False)  # a child of this rank must not keep the pipes open
        self._answers = Connection(answers, readable=False)
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._cancelled = 0
        threading.Thread(target=self._listen, args=(Connection(requests, writable=False),), daemon=True).start()

    def next(self) -> Any:
        """Wait for the next message."""
        return unpack(self._waiting.get())

    def cancelled(self, number: int) -> bool:
        """Whether this rank was told to give a request up."""
        return self._cancelled == number

    def answer(self, message: Any) -> None:
        """Tell whoever started this rank."""
        with contextlib.suppress(BrokenPipeError):  # it is gone, and so will this process be at once
            self._answers.send_bytes(pack(message))

    def _listen(self, requests: Connection) -> None:
        try:
            while True:
                packed = requests.recv_bytes()
                number = cancelled_number(packed)
                if number is None:
                    self._waiting.put(packed)
                else:
                    self._cancelled = number
        finally:  # also from the middle of a step, and where a message is larger than what memory is left
            os._exit(0)
