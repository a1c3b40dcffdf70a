"""Ranks that run a program of somebody's own, to its end, without a word to it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenring_xdit.errors import LaunchError, LostRankError
from tokenring_xdit.liveness import ProcessIdentity
from tokenring_xdit.workers.blame import in_words
from tokenring_xdit.workers.messages import Gone
from tokenring_xdit.workers.watch import Watch

__all__ = ["end_all", "wait_for_all"]

_PATIENCE = 5.0  # seconds for ranks to end after SIGTERM, before they are killed
_POLL = 0.02  # seconds


@dataclass(frozen=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]

    @property
    def identity(self) -> ProcessIdentity | None:
        try:
            return ProcessIdentity.of(self.process.pid)
        except ProcessLookupError:
            return None


def wait_for_all(
    processes: Sequence[subprocess.Popen[bytes]],
    name: Callable[[int], str],
    *,
    last_words: Callable[[int], str] = lambda rank: "",
    timeout: float | None = None,
) -> None:
    """Wait until all ranks have ended well; end none.

    Args:
        processes: The ranks.
        name: What a rank is called.
        last_words: What a rank has said, to follow a colon.
        timeout: Seconds; ``None`` waits as long as it takes.

    Raises:
        LostRankError: A rank was killed or is stopped.
        LaunchError: A rank failed, or the time is over.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    watch, ranks = Watch(), [_Rank(number, process) for number, process in enumerate(processes)]
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                said = last_words(rank)
                how = f"{name(rank)} {in_words(Gone(code), processes[rank].pid)}{f': {said}' if said else ''}"
                raise LostRankError(how) if code < 0 else LaunchError(how)
        running = [rank for rank, code in zip(ranks, codes, strict=True) if code is None]
        if not running:
            return
        for rank_stopped, stopped in watch.look(running).items():
            raise LostRankError(f"{name(rank_stopped.number)} {in_words(stopped, rank_stopped.process.pid)}")
        if deadline is not None and time.monotonic() > deadline:
            numbers = [rank.number for rank in running]
            raise LaunchError(f"ranks {numbers} did not end within {timeout:g} seconds, and were ended")
        time.sleep(_POLL)


def end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs, gently at first."""
    running = [process for process in processes if process.poll() is None]
    try:
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _PATIENCE
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(_POLL)
    finally:  # also when Ctrl-C is pressed again meanwhile
        for process in processes:
            process.kill()
            process.wait()
