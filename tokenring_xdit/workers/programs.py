"""Ranks that run a program of somebody's own, to its end, without a word to it."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenring_xdit import liveness
from tokenring_xdit.errors import LaunchError, LostRankError
from tokenring_xdit.liveness import ProcessIdentity
from tokenring_xdit.workers.attempt import carry_through
from tokenring_xdit.workers.blame import in_words, is_lost_for_certain
from tokenring_xdit.workers.messages import Answer, Gone, Silent
from tokenring_xdit.workers.state import Heard, Limits, RequestAttempt

__all__ = ["end_all", "wait_for_all"]

_PATIENCE = 5.0  # seconds for ranks to end after SIGTERM, before they are killed
_POLL = 0.02  # seconds
_SECONDS_TO_EXPLAIN = 1.0  # after a first failure: those that miss a rank may end before it is seen that it was killed
_REQUEST = 1  # a program is asked once: to run


@dataclass(frozen=True)
class _RunningProgram:
    rank: int
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
    ranks = [_RunningProgram(rank, process) for rank, process in enumerate(processes)]
    limits = Limits(math.inf if timeout is None else timeout, _SECONDS_TO_EXPLAIN, liveness.limit(), in_all=True)
    attempt = RequestAttempt(_REQUEST, [ranks], limits, time.monotonic())
    carry_through(attempt, lambda seconds: _ended(attempt, seconds))
    if attempt.succeeded(0):
        return
    culprit = attempt.culprit(0)
    outcome = attempt.outcomes[culprit]
    if isinstance(outcome, Silent):
        silent = [program.rank for program in attempt.failures(0)]
        raise LaunchError(f"ranks {silent} did not end within {timeout:g} seconds, and were ended")
    said = last_words(culprit.rank) if isinstance(outcome, Gone) else ""
    how = f"{name(culprit.rank)} {in_words(outcome, culprit.process.pid)}{f': {said}' if said else ''}"
    raise LostRankError(how) if is_lost_for_certain(outcome) else LaunchError(how)


def _ended(attempt: RequestAttempt[_RunningProgram], seconds: float) -> Heard[_RunningProgram] | None:
    """Wait for the end of a program, at most so long."""
    end = time.monotonic() + seconds
    while True:
        for program in attempt.waiting:
            code = program.process.poll()
            if code is not None:
                message = Gone(code) if code else Answer(_REQUEST, None)
                return Heard(program, message, time.monotonic())
        if time.monotonic() >= end:
            return None
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
