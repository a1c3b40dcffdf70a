"""What a rank runs: the module ``tokenring_xdit.workers.birth`` with ``MODULE PARENT MORTAL REQUESTS ANSWERS``.

It asks to be ended with whoever started it, listens, and only then imports ``MODULE``, which takes seconds, and calls
``MODULE.main`` with the :class:`~tokenring_xdit.workers.mailbox.Mailbox`. ``PARENT`` is a process id, ``MORTAL`` is 1
where the thread that starts ranks lives as long as its process, the rest are file descriptors of two pipes.
"""

from __future__ import annotations

import sys

from tokenring_xdit.workers.death import end_with_parent

__all__ = ["main"]


def main(module: str, parent: int, mortal: bool, requests: int, answers: int) -> None:
    """Be a rank."""
    if mortal:
        end_with_parent(parent)

    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interruptions are for the process that started this one

    import importlib
    import time
    import traceback

    from tokenring_xdit.errors import TokenRingError
    from tokenring_xdit.workers.mailbox import Mailbox
    from tokenring_xdit.workers.messages import Failed

    mailbox = Mailbox(requests, answers)
    try:
        importlib.import_module(module).main(mailbox)
    except Exception as error:
        refused = isinstance(error, TokenRingError)
        where = None if refused else traceback.format_exc()
        failed = Failed(kind=type(error).__name__, message=str(error), time=time.time(), traceback=where)
        mailbox.answer(failed)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # without waiting for threads of a broken process group


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1", int(sys.argv[4]), int(sys.argv[5]))
