"""Two pipes between a rank and whoever started it, and the rank's ends of them.

Messages are pickled by default: a pipe carries what pipelines are called with and what they
make (pictures, tensors, arguments of any class). Nobody can write into it but the process that started the rank, the
rank itself, and what has their rights already. Nothing that comes from a socket or a store is read so; see
:mod:`~tokenring_xdit.workers.wire` and :mod:`tokenring_xdit.plain`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import threading
from multiprocessing.connection import Connection
from typing import Any

from tokenring_xdit.workers.loop import Mailbox
from tokenring_xdit.workers.messages import Task
from tokenring_xdit.workers.starting import Packing

__all__ = ["Pickles", "PipeMailbox", "cancel"]

_CANCEL = b"cancel "


class Pickles(Packing):
    """Messages as they go through pipes; torch's own pickling of tensors would share memory with what is no child."""

    name = ""

    def pack(self, message: Any) -> bytes:
        """As :meth:`Packing.pack`."""
        return pickle.dumps(message)

    def unpack(self, packed: bytes) -> Any:
        """As :meth:`Packing.unpack`."""
        return pickle.loads(packed)


def cancel(number: int) -> bytes:
    """A message, packed: give request ``number`` up. It is heard at once, while others wait for their turn."""
    return _CANCEL + str(number).encode()


class PipeMailbox(Mailbox):
    """The rank's ends of the pipes. The process ends as soon as the other ends are closed.

    Messages are unpickled by :meth:`next`, not where they are heard: that may import what takes seconds, in which
    nobody would notice the end of the pipe.

    Args:
        requests: File descriptor to read from.
        answers: File descriptor to write to.
        packing: The name of a :class:`~tokenring_xdit.workers.wire.Wire`; empty for pickles.
    """

    def __init__(self, requests: int, answers: int, packing: str = "") -> None:
        self._packing_name = packing
        self._packing: Packing | None = None if packing else Pickles()
        for descriptor in (requests, answers):
            os.set_inheritable(descriptor, False)  # a child of this rank must not keep the pipes open
        self._answers = Connection(answers, readable=False)
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._cancelled = 0
        threading.Thread(target=self._listen, args=(Connection(requests, writable=False),), daemon=True).start()

    def next(self) -> Task:
        """Wait for the next task."""
        task: Task = self._known_packing().unpack(self._waiting.get())
        self.number = task.number
        return task

    def cancelled(self) -> bool:
        """Whether this rank was told to give up what it does."""
        return self._cancelled == self.number

    def answer(self, message: Any) -> None:
        """Tell whoever started this rank."""
        packed = self._known_packing().pack(message)
        with contextlib.suppress(BrokenPipeError):  # it is gone, and so will this process be at once
            self._answers.send_bytes(packed)

    def _known_packing(self) -> Packing:
        if self._packing is None:
            wire = importlib.import_module("tokenring_xdit.workers.wire")  # after this rank has begun to listen
            self._packing = wire.Wire(self._packing_name)
        return self._packing

    def _listen(self, requests: Connection) -> None:
        try:
            while True:
                packed = requests.recv_bytes()
                if packed.startswith(_CANCEL):
                    self._cancelled = int(packed.removeprefix(_CANCEL))
                else:
                    self._waiting.put(packed)
        finally:  # also from the middle of a step, and where a message is larger than what memory is left
            os._exit(0)
