"""What a rank runs: the module ``tokenring_xdit.workers.rank`` with ``PROGRAM PARENT TIED REQUESTS ANSWERS PACKING``.

It asks to be ended with whoever started it, listens, and only then imports the module ``PROGRAM``, which takes seconds,
and serves; see :func:`tokenring_xdit.workers.loop.serve`. ``PARENT`` is a process id, ``TIED`` is 1 where the thread
that starts ranks lives as long as its process, then come file descriptors of two pipes, and how messages are packed.
"""

from __future__ import annotations

import sys

from tokenring_xdit.workers.lifetime import end_with_parent

__all__ = ["main"]


def main(program: str, parent: int, tied: bool, requests: int, answers: int, packing: str) -> None:
    """Be a rank."""
    if tied:
        end_with_parent(parent)

    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interruptions are for the process that started this one

    from tokenring_xdit.workers.loop import serve
    from tokenring_xdit.workers.pipes import PipeMailbox

    try:
        serve(PipeMailbox(requests, answers, packing), program)
    except Exception:  # which was told
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # without waiting for threads of a broken process group


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1", int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
