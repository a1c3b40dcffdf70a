"""Ranks that carry out one order after the other, all of them together."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from tokenring_xdit.errors import LaunchError, LostRankError
from tokenring_xdit.workers.blame import culprit, in_words, is_lost
from tokenring_xdit.workers.environment import local_environment
from tokenring_xdit.workers.messages import Aside, Failed, Gone, pack
from tokenring_xdit.workers.process import Inbox, RankProcess, Rendezvous, kept_file
from tokenring_xdit.workers.watch import POLL, Watch

__all__ = ["Crew"]

_SECONDS_TO_STOP = 5.0
_SECONDS_TO_EXPLAIN = 1.0
"""After a first failure: the rank that died is to blame, not those that miss it, and they may be heard first."""
_LINES = 5  # of a dead rank's messages that are shown


class Crew:
    """Ranks that live as long as the ``with`` block, or until one of them fails.

    Args:
        module: What each of them runs; see :mod:`tokenring_xdit.workers.birth`.
        ranks: How many.
        environment: Of a rank, from its number, the number of ranks and where they meet.
        before: Words before the command of a rank; none by default.
        quiet: Show what ranks print where they die, instead of as they print it. Where it is shown at once, the
            traceback of a rank that fails is kept in a file, which the error names.
    """

    def __init__(
        self,
        module: str,
        ranks: int,
        *,
        environment: Callable[[int, int, str], Mapping[str, str]] = local_environment,
        before: Callable[[int], Sequence[str]] = lambda rank: (),
        quiet: bool = True,
    ) -> None:
        self.ranks = ranks
        self._quiet = quiet
        self._watch = Watch()
        self._inbox: Inbox = queue.SimpleQueue()
        self._ranks: list[RankProcess] = []
        rendezvous = Rendezvous()
        try:
            for rank in range(ranks):
                variables = environment(rank, ranks, rendezvous.init_method)
                self._ranks.append(
                    RankProcess(rank, module, variables, self._inbox, rendezvous, quiet=quiet, before=before(rank))
                )
        except BaseException as error:
            self.close(kill=True)
            if isinstance(error, OSError):
                raise LaunchError(f"the ranks could not be started: {error}") from error
            raise
        finally:
            rendezvous.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=error is not None)

    @property
    def processes(self) -> list[int]:
        """Process ids of the ranks."""
        return [rank.process.pid for rank in self._ranks]

    def ask(
        self, order: Any, timeout: float = math.inf, told: Callable[[Any], None] = lambda content: None
    ) -> list[Any]:
        """Give all ranks an order and wait for their answers.

        Args:
            order: Whatever the ranks' module understands.
            timeout: Seconds.
            told: Called with what ranks tell before they answer.

        Returns:
            What each rank answered.

        Raises:
            LostRankError: A rank died or is stopped; the others are ended too.
            LaunchError: A rank failed or did not answer in time; the others are ended too.
        """
        packed = pack(order)
        for rank in self._ranks:
            rank.send(packed)
        answers: dict[RankProcess, Any] = {}
        failures: dict[RankProcess, Any] = {}
        deadline = time.monotonic() + timeout
        while len(answers) + len(failures) < self.ranks and (left := deadline - time.monotonic()) > 0:
            try:
                rank, message = self._inbox.get(timeout=min(left, POLL))
            except queue.Empty:
                pass
            else:
                if isinstance(message, (Failed, Gone)):
                    failures.setdefault(rank, message)
                elif isinstance(message, Aside):
                    told(message.content)
                elif rank not in failures:
                    answers[rank] = message
            failures |= self._watch.look(self._waiting(answers, failures))
            if failures:
                deadline = min(deadline, time.monotonic() + _SECONDS_TO_EXPLAIN)
        if failures or len(answers) < self.ranks:
            failures |= self._watch.stopped_now(self._waiting(answers, failures))
            error = self._error(failures, self._waiting(answers, failures), timeout)
            self.close(kill=True)
            raise error
        return [answers[rank] for rank in self._ranks]

    def _waiting(self, *known: Mapping[RankProcess, Any]) -> list[RankProcess]:
        return [rank for rank in self._ranks if not any(rank in outcomes for outcomes in known)]

    def _error(self, failures: Mapping[RankProcess, Any], silent: Sequence[RankProcess], timeout: float) -> LaunchError:
        if not failures:
            return LaunchError(
                f"ranks {[rank.rank for rank in silent]} did not answer within {timeout:g} seconds, and were ended"
            )
        rank = culprit(failures)
        outcome = failures[rank]
        text = f"rank {rank.rank} {in_words(outcome, rank.process.pid)}; all ranks have ended"
        if isinstance(outcome, Failed):
            text = f"rank {rank.rank} {in_words(outcome, rank.process.pid)}"
            if outcome.traceback is not None and not self._quiet:
                text += f"\n(traceback: {kept_file(f'rank{rank.rank}.traceback.txt', outcome.traceback)})"
        last = "\n".join(rank.printed().splitlines()[-_LINES:])
        if not is_lost(outcome):
            return LaunchError(text)
        return LostRankError(f"{text}; it said: {last}" if last else text)

    def close(self, *, kill: bool = False) -> None:
        """End all ranks.

        Args:
            kill: Do not give them time.
        """
        for rank in self._ranks:
            if kill:
                rank.process.kill()
            rank.hang_up()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for rank in self._ranks:
            rank.wait(max(0.0, deadline - time.monotonic()))
