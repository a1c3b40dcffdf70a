"""What ranks of the tests of this folder run."""

from __future__ import annotations

import os
import time
from typing import Any

from tokenring_xdit.workers.mailbox import Mailbox


def main(mailbox: Mailbox) -> None:
    """Answer with what the order, an expression, says; names of this module are known, and ``rank``."""
    rank = int(os.environ["RANK"])
    while True:
        mailbox.answer(eval(mailbox.next(), {**globals(), "rank": rank}))


def sleep(seconds: float) -> None:
    """Take time."""
    time.sleep(seconds)


def fail(error: Exception) -> Any:
    """Raise it."""
    raise error


def end(code: int) -> None:
    """Be gone, with an exit code."""
    os._exit(code)


def kill(signal: int) -> None:
    """Be ended by a signal."""
    os.kill(os.getpid(), signal)
