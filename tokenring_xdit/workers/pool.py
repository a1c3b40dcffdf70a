"""Ranks that serve together: started, asked, and surely ended."""

from __future__ import annotations

import functools
import math
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tokenring_xdit import liveness
from tokenring_xdit.errors import LaunchError, LostRankError
from tokenring_xdit.workers.attempt import carry_through
from tokenring_xdit.workers.blame import in_words, is_lost
from tokenring_xdit.workers.environment import local_environment
from tokenring_xdit.workers.messages import Failed, RankOutcome, Silent, Task
from tokenring_xdit.workers.output import kept_file
from tokenring_xdit.workers.pipes import Pickles, cancel
from tokenring_xdit.workers.starting import Inbox, Packing, RankStarter, StartedRank, called
from tokenring_xdit.workers.state import Event, Limits, RequestAttempt, Show
from tokenring_xdit.workers.worker import Rendezvous, Worker, hear

__all__ = ["LocalStarter", "Pool", "WorkerPool"]

_SECONDS_TO_STOP = 5.0
"""How long a rank that was told to end gets before it is killed."""

_SECONDS_TO_EXPLAIN = 1.0
"""After a first failure: the rank that died is to blame, not those that miss it, and they may be heard first."""

_LINES = 5  # of a dead rank's messages that are shown


class Pool(ABC):
    """Ranks that carry out one command after the other, all of them together, for as long as a ``with`` block.

    Attributes:
        workers: The ranks, each with its number as ``rank``.
    """

    workers: Sequence[Any]
    _requests = 0
    _silent = "ranks {ranks} did not answer within {timeout:g} seconds"

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.workers)

    def ask(
        self, command: Any, timeout: float = math.inf, show: Callable[[Any], None] = lambda content: None
    ) -> list[Any]:
        """Have all ranks carry out a command, and wait for their answers.

        Args:
            command: One of those that the program knows.
            timeout: Seconds.
            show: Called with what ranks tell on the way.

        Returns:
            What each rank answered.

        Raises:
            LostRankError: A rank died or is stopped; nothing can be asked any more.
            LaunchError: A rank failed or did not answer in time; nothing can be asked any more.
        """
        self._requests += 1
        self.send(Task(self._requests, command))
        limits = Limits(timeout, _SECONDS_TO_EXPLAIN, liveness.limit(), in_all=True)
        attempt = RequestAttempt(self._requests, [self.workers], limits, time.monotonic())
        carry_through(attempt, self._ear(attempt), lambda told: show(told.content) if isinstance(told, Show) else None)
        if attempt.reusable(0):
            return attempt.answers(0)
        failures, worker = attempt.failures(0), attempt.culprit(0)
        if isinstance(failures[worker], Silent):
            silent = sorted(each.rank for each in failures)
            error = LaunchError(self._silent.format(ranks=silent, timeout=timeout))
        else:
            error = self._error(worker, failures[worker])
        self._give_up()
        raise error

    @abstractmethod
    def send(self, task: Task) -> None:
        """Give all ranks a task."""

    @abstractmethod
    def _ear(self, attempt: RequestAttempt[Any]) -> Callable[[float], Event[Any] | None]: ...

    @abstractmethod
    def _error(self, worker: Any, outcome: RankOutcome) -> LaunchError: ...

    @abstractmethod
    def _give_up(self) -> None: ...

    @abstractmethod
    def __enter__(self) -> Any: ...

    @abstractmethod
    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None: ...


class LocalStarter(RankStarter):
    """Starts ranks as processes of this machine.

    Args:
        environment: Environment of a rank, from its number, the number of ranks and where they join.
        before: Words before the command of a rank; none by default.
        quiet: Keep what ranks print, instead of having it printed.
    """

    def __init__(
        self,
        environment: Callable[[int, int, str], Mapping[str, str]] = local_environment,
        before: Callable[[int], Sequence[str]] = lambda rank: (),
        quiet: bool = True,
    ) -> None:
        self.packing: Packing = Pickles()
        self._environment, self._before, self._quiet = environment, before, quiet

    def start(self, program: str, ranks: int, inbox: Inbox) -> Iterator[StartedRank]:
        """As :meth:`RankStarter.start`."""
        with Rendezvous() as rendezvous:
            for rank in range(ranks):
                yield Worker(
                    rank,
                    program,
                    self._environment(rank, ranks, rendezvous.init_method),
                    inbox,
                    (rendezvous.descriptor,),
                    quiet=self._quiet,
                    before=self._before(rank),
                    packing=self.packing,
                )


class WorkerPool(Pool):
    """The ranks of one world; all end when one of them fails.

    Args:
        program: What each of them serves; see :func:`tokenring_xdit.workers.loop.serve`.
        ranks: How many.
        environment: Environment of a rank, from its number, the number of ranks and where they join.
        before: Words before the command of a rank; none by default.
        quiet: Keep what ranks print, and show its end where they die, instead of having it printed. Where it is
            printed, the traceback of a rank that fails is kept in a file, which the error names.
        inbox: Where they are heard, for whoever asks several pools at once; one of its own by default.
        starter: Starts them otherwise than as processes of this machine; without ``environment`` and ``before`` then.

    Raises:
        LaunchError: They could not be started.
        ConfigurationError: The environment says a limit that is none.
    """

    _silent = Pool._silent + ", and were ended"

    def __init__(
        self,
        program: str,
        ranks: int,
        *,
        environment: Callable[[int, int, str], Mapping[str, str]] = local_environment,
        before: Callable[[int], Sequence[str]] = lambda rank: (),
        quiet: bool = True,
        inbox: Inbox | None = None,
        starter: RankStarter | None = None,
    ) -> None:
        liveness.limit()  # is read by each request
        starter = LocalStarter(environment, before, quiet) if starter is None else starter
        self._packing = starter.packing
        self.workers: list[StartedRank] = []
        self._quiet = quiet
        self._inbox: Inbox = queue.SimpleQueue() if inbox is None else inbox
        try:
            for worker in starter.start(program, ranks, self._inbox):
                self.workers.append(worker)
        except BaseException as error:
            self.close(kill=True)
            if isinstance(error, OSError):
                raise LaunchError(f"the ranks could not be started: {error}") from error
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close(kill=error is not None)

    @property
    def processes(self) -> list[int]:
        """Process ids of the ranks."""
        return [worker.pid for worker in self.workers]

    @property
    def died(self) -> bool:
        """Whether a rank has ended."""
        return any(worker.ended for worker in self.workers)

    def send(self, task: Task) -> None:
        """Give all ranks a task; their answers come to the inbox."""
        packed = self._packing.pack(task)
        for worker in self.workers:
            worker.send(packed)

    def cancel(self, number: int) -> None:
        """Have all ranks give a request up together; they agree on what the first one says."""
        self.workers[0].send(cancel(number))

    def _ear(self, attempt: RequestAttempt[StartedRank]) -> Callable[[float], Event[StartedRank] | None]:
        return functools.partial(hear, self._inbox)

    def _give_up(self) -> None:
        self.close(kill=True)

    def _error(self, worker: StartedRank, outcome: RankOutcome) -> LaunchError:
        text = f"{called(worker)} {in_words(outcome, worker.pid)}"
        if not is_lost(outcome):
            if isinstance(outcome, Failed) and outcome.traceback is not None and not self._quiet:
                text += f"\n(traceback: {kept_file(f'rank{worker.rank}.traceback.txt', outcome.traceback)})"
            return LaunchError(text)
        last = "\n".join(worker.printed().splitlines()[-_LINES:])
        return LostRankError(f"{text}; all ranks have ended" + (f"; it said: {last}" if last else ""))

    def hang_up(self) -> None:
        """Let all ranks end, and wait for none."""
        for worker in self.workers:
            worker.hang_up()

    def close(self, *, kill: bool = False) -> None:
        """End all ranks.

        Args:
            kill: Do not give them time.
        """
        for worker in self.workers:
            if kill:
                worker.kill()
            worker.hang_up()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for worker in self.workers:
            worker.wait(max(0.0, deadline - time.monotonic()))
