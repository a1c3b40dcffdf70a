"""What ranks of the tests of this folder serve."""

from __future__ import annotations

import os
import time
from typing import Any

from tokenring_xdit.workers.loop import Commands, Mailbox


def commands(mailbox: Mailbox) -> Commands:
    """Answer with what a command, an expression, says; names of this module are known, and ``rank``."""
    known = {**globals(), "rank": int(os.environ["RANK"])}
    return {str: lambda expression: eval(expression, known)}


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
