"""The ranks of an engine, which serve one request after the other; a request is carried through, or given up."""

from __future__ import annotations

import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenring_xdit import liveness
from tokenring_xdit.errors import CancelledError, ConfigurationError, EngineError, LaunchError
from tokenring_xdit.pipelines.replicas import LOADING, Replicas, ReplicaShare, error_of
from tokenring_xdit.pipelines.values import is_number, is_whole
from tokenring_xdit.workers.attempt import carry_through
from tokenring_xdit.workers.messages import Task
from tokenring_xdit.workers.signals import CountedInterrupts
from tokenring_xdit.workers.starting import Packing, StartedRank, WorldPlace
from tokenring_xdit.workers.state import Cancel, CancelAsked, Instruction, Interrupted, Limits, RequestAttempt, Restart
from tokenring_xdit.workers.worker import hear

__all__ = ["EngineRanks", "Turn", "checked_timeout", "refuse_below_one"]

log = logging.getLogger(__name__)

_SECONDS_TO_EXPLAIN = 10.0
"""How long the other ranks get to report after one has failed; one of them may be the cause."""


class Turn:
    """A request's use of the ranks.

    Attributes:
        number: Number of the request; :data:`~tokenring_xdit.pipelines.replicas.LOADING` before its turn has come.
        cancelled: Whether somebody wants it given up.
        started: Whether ranks had to be started for it.
    """

    def __init__(self) -> None:
        self.number = LOADING
        self.cancelled = self.started = False


class EngineRanks:
    """Ranks that load a model once; whoever wants to use them stands in line.

    Args:
        program: What each of them serves; see :func:`tokenring_xdit.workers.loop.serve`.
        setup: The command with which they load.
        ranks: Ranks of one replica.
        replicas: How many of those there are.
        timeout: Seconds without any sign of life from the ranks, after which they are given up.
        place: Where they are; this machine by default.

    None is there before :meth:`start`, or before the first request.
    """

    def __init__(
        self,
        program: str,
        setup: Any,
        *,
        ranks: int,
        replicas: int = 1,
        timeout: float,
        place: WorldPlace | None = None,
    ) -> None:
        self.timeout = timeout
        self._ranks = ranks
        self._requests = 0
        self._changed = threading.Condition()
        self._line: list[Turn] = []
        self._served_by: int | None = None
        self._under_way = LOADING
        self._replicas = Replicas(program, replicas, ranks, setup, place)
        self._finalizer = weakref.finalize(self, self._replicas.close)

    @property
    def running(self) -> list[ReplicaShare]:
        """The replicas that are there."""
        return self._replicas.running

    @property
    def workers(self) -> list[StartedRank]:
        """The ranks, by replica and rank."""
        return [worker for share in self.running for worker in share.pool.workers]

    @property
    def cluster(self) -> str | None:
        """Which cluster they are on; ``None`` for this machine."""
        return self._replicas.cluster

    @property
    def packing(self) -> Packing:
        """How commands reach them."""
        return self._replicas.packing

    @property
    def processes(self) -> list[int]:
        """Process ids of the ranks, by replica and rank."""
        return [worker.pid for worker in self.workers]

    def start(self) -> None:
        """Start ranks that are not there, and wait until they have loaded.

        Raises:
            EngineError: One failed meanwhile.
        """
        with self.taken(self.stand_in_line()):
            pass

    def close(self) -> None:
        """End the ranks."""
        self._finalizer()

    # -- the line --------------------------------------------------------------------------------------------------

    def stand_in_line(self) -> Turn:
        """A turn behind those that were asked for before; :meth:`taken` waits for it."""
        self._refuse_closed()
        if self._served_by == threading.get_ident():
            raise ConfigurationError("this engine is serving the request whose callback asks for another one")
        turn = Turn()
        with self._changed:
            self._line.append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """Stand in line no longer."""
        with self._changed:
            if turn in self._line:
                self._line.remove(turn)
            self._changed.notify_all()

    @contextmanager
    def taken(self, turn: Turn, *, start: bool = True) -> Iterator[None]:
        """Wait for a turn; inside, no other request uses the ranks.

        Args:
            turn: From :meth:`stand_in_line`; it is over afterwards.
            start: Whether ranks are started that are not there.

        Raises:
            CancelledError: It was cancelled before it came.
            EngineError: Ranks were started, and one failed while it loaded.
        """
        try:
            with self._changed:
                self._changed.wait_for(lambda: turn.cancelled or self._line[0] is turn)
            self._refuse_closed()
            self._refuse_cancelled(turn)
            self._served_by = threading.get_ident()
            self._requests += 1
            turn.number = self._requests
            if start:
                self._start_missing(turn)
            yield
        finally:
            if turn.number != LOADING:
                self._served_by = None
            self.leave(turn)

    def cancel(self, turn: Turn) -> None:
        """Give a request up, at its next step or before its turn, from any thread."""
        self._give_up(turn, CancelAsked(turn.number))

    def cancel_running(self) -> None:
        """Give the request up that is served; without one nothing happens."""
        with self._changed:
            first = self._line[:1]
        for turn in first:
            self.cancel(turn)

    def interrupt(self, turn: Turn) -> None:
        """Give a request up as :meth:`cancel` does; the second time without waiting for its ranks."""
        self._give_up(turn, Interrupted(self._under_way))

    def _give_up(self, turn: Turn, event: CancelAsked | Interrupted) -> None:
        with self._changed:
            turn.cancelled = True
            if turn in self._line and turn.number != LOADING:
                self._replicas.inbox.put((None, event))
            self._changed.notify_all()

    # -- requests --------------------------------------------------------------------------------------------------

    def serve(
        self,
        turn: Turn,
        shares: Sequence[ReplicaShare],
        commands: Sequence[Any],
        show: Callable[[ReplicaShare, Any], None] | None = None,
    ) -> RequestAttempt[StartedRank]:
        """Have replicas carry a command out each, drop those that cannot go on, and raise what went wrong.

        Args:
            turn: Which was taken.
            shares: Shares of :attr:`running`.
            commands: One for each.
            show: Called with what ranks tell on the way; what it raises cancels the request and is raised here.

        Raises:
            CancelledError: It was cancelled.
            EngineError: A rank failed; the message names it, its error and its log.
            KeyboardInterrupt: It was interrupted.
            TokenRingError: The ranks refuse it.
        """
        return self._carry_through(turn, turn.number, shares, commands, show)

    def _start_missing(self, turn: Turn) -> None:
        """Start ranks that are not there, and wait until they have loaded."""
        try:
            started = self._replicas.start_missing()
        except BaseException as error:
            self._replicas.drop_all()
            if isinstance(error, LaunchError):
                raise EngineError(str(error)) from error
            raise
        if started:
            log.info("starting %d replicas of %d ranks", len(started), self._ranks)
            turn.started = True
            self._carry_through(turn, LOADING, started)

    def _carry_through(
        self,
        turn: Turn,
        number: int,
        shares: Sequence[ReplicaShare],
        commands: Sequence[Any] = (),
        show: Callable[[ReplicaShare, Any], None] | None = None,
    ) -> RequestAttempt[StartedRank]:
        """While this waits in the main thread, Ctrl-C is counted instead of raised, so that no answer is lost.

        The first one cancels the request, the second one gives the ranks up.
        """
        inbox = self._replicas.inbox
        limits = Limits(self.timeout, _SECONDS_TO_EXPLAIN, liveness.limit())
        attempt = RequestAttempt(number, [share.pool.workers for share in shares], limits, time.monotonic())
        raised: list[BaseException] = []  # by the callback
        self._under_way = number

        def carry_out(instruction: Instruction) -> None:
            share = shares[instruction.team]
            if isinstance(instruction, Cancel):
                share.pool.cancel(number)
            elif isinstance(instruction, Restart):
                self._replicas.drop(share.pool)
            elif show is not None and not raised:
                try:
                    with interrupts.raised():
                        show(share, instruction.content)
                except BaseException as error:
                    raised.append(error)
                    inbox.put((None, CancelAsked(number)))

        try:
            for share, command in zip(shares, commands, strict=False):
                share.pool.send(Task(number, command))
            if number != LOADING and turn.cancelled:  # while the ranks were started
                inbox.put((None, CancelAsked(number)))
            with CountedInterrupts(lambda: inbox.put((None, Interrupted(number)))) as interrupts:
                carry_through(attempt, functools.partial(hear, inbox), carry_out)
        except BaseException:  # where even the waiting was broken off, nothing is known of these ranks
            for share in shares:
                self._replicas.drop(share.pool)
            raise
        if interrupts.count:
            raise KeyboardInterrupt
        if raised:
            raise raised.pop()
        self._refuse_closed("was closed while it served this request")
        if number != LOADING:
            self._refuse_cancelled(turn)
        failed = [team for team in range(len(shares)) if not attempt.succeeded(team)]
        errors = [error_of(attempt, team, shares[team]) for team in failed]
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error
        return attempt

    def _refuse_cancelled(self, turn: Turn) -> None:
        if turn.cancelled:
            raise CancelledError("the request was cancelled")

    def _refuse_closed(self, how: str = "was closed") -> None:
        if not self._replicas.here:
            raise ConfigurationError(
                "this process is a fork of the one whose engine this is: make an engine of its own"
            )
        if not self._finalizer.alive:
            raise ConfigurationError(f"this engine {how}: make a new one")


def refuse_below_one(**counts: Any) -> None:
    """Refuse arguments that are no whole numbers of at least 1.

    Raises:
        ConfigurationError: One is not.
    """
    for name, value in counts.items():
        if not is_whole(value) or value < 1:
            raise ConfigurationError(f"{name} is {value!r}; it has to be a whole number of at least 1")


def checked_timeout(timeout: Any) -> float:
    """A number of seconds that ranks can be waited for.

    Raises:
        ConfigurationError: It is none.
    """
    if not is_number(timeout) or timeout <= 0:
        raise ConfigurationError(f"timeout is {timeout!r}; it has to be a positive number of seconds")
    return float(timeout)
