"""What each rank of an engine runs: ``python -m tokenring_xdit.pipelines.engine_rank REQUESTS ANSWERS``.

The arguments are the file descriptors of two pipes. This module is quick to import, so that a rank hears from its
first moment on when the engine is gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from tokenring_xdit.pipelines.messages import Cancel, Failed, Phase, Ready, pack, receive

__all__ = ["Mailbox", "main"]


class Mailbox:
    """The rank's ends of the pipes. The process ends as soon as the engine's ends are closed.

    Args:
        requests: File descriptor to read from.
        answers: File descriptor to write to.
    """

    def __init__(self, requests: int, answers: int) -> None:
        for descriptor in (requests, answers):
            os.set_inheritable(descriptor, False)  # a child of this rank must not keep the pipes open
        self._answers = Connection(answers, readable=False)
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._cancelled = 0
        threading.Thread(target=self._listen, args=(Connection(requests, writable=False),), daemon=True).start()

    def next(self) -> Any:
        """Wait for the next message."""
        return self._waiting.get()

    def cancelled(self, number: int) -> bool:
        """Whether this rank was told to give a request up."""
        return self._cancelled == number

    def answer(self, message: Any) -> None:
        """Tell the engine."""
        with contextlib.suppress(BrokenPipeError):  # the engine is gone, and so will this process be at once
            self._answers.send_bytes(pack(message))

    def _listen(self, requests: Connection) -> None:
        try:
            while True:
                message = receive(requests)
                if isinstance(message, Cancel):
                    self._cancelled = message.number
                else:
                    self._waiting.put(message)
        except (EOFError, OSError):
            os._exit(0)  # also from the middle of a step
        except Exception:  # an object whose class this process cannot import
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def main(requests: int, answers: int) -> None:
    """Load what the first message says, then serve requests until the engine is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interruptions are the engine's to handle
    mailbox = Mailbox(requests, answers)
    setup = mailbox.next()
    try:
        from tokenring_xdit.pipelines.serving import Server

        server = Server(setup, mailbox)
    except Exception as error:
        traceback.print_exc()
        mailbox.answer(Failed(0, Phase.LOADING, type(error).__name__, str(error), time.time()))
        mailbox.next()
        return
    mailbox.answer(Ready())
    while True:
        mailbox.answer(server.serve(mailbox.next()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
