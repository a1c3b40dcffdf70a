"""One request on its way through the ranks: who has answered, who failed and why, and who can go on."""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tokenring_xdit import errors
from tokenring_xdit.errors import EngineError
from tokenring_xdit.pipelines.fleet import World
from tokenring_xdit.pipelines.messages import Done, Failed, Phase, Progress, Ready
from tokenring_xdit.workers import messages
from tokenring_xdit.workers.blame import Silent, culprit, in_words
from tokenring_xdit.workers.messages import Gone
from tokenring_xdit.workers.process import Inbox, RankProcess, kept_file
from tokenring_xdit.workers.watch import POLL, Stopped, Watch

__all__ = ["Part", "Turn"]

_SECONDS_OF_GRACE = 10.0
"""How long the other ranks get to report after one has failed; one of them may be the cause."""

_CANCELLED = errors.CancelledError.__name__

_RAISED_ALIKE = frozenset(
    error.__name__
    for error in (
        errors.AgreementError,
        errors.ConfigurationError,
        errors.KernelError,
        errors.ScheduleError,
        errors.UnsupportedError,
    )
)
"""Refusals, which ranks raise before they send anything."""


Outcome = Ready | Done | messages.Failed | Gone | Silent | Stopped


@dataclass(eq=False)
class Part:
    """What one world does of a request.

    Attributes:
        world: Its ranks.
        prompts: Positions of the prompts that it has.
        outcomes: How each rank ended.
        deadline: When the others are not waited for any longer, once a rank has failed.
    """

    world: World
    prompts: range
    outcomes: dict[RankProcess, Outcome] = field(default_factory=dict)
    deadline: float = math.inf

    @property
    def waiting(self) -> list[RankProcess]:
        """Ranks that have not ended."""
        return [rank for rank in self.world.ranks if rank not in self.outcomes]

    @property
    def succeeded(self) -> bool:
        """Whether all ranks did what they were asked."""
        return all(isinstance(outcome, (Ready, Done)) for outcome in self.outcomes.values())

    @property
    def intact(self) -> bool:
        """Whether the ranks can serve the next request: no message of this one is left between them."""
        if self.succeeded:
            return True
        failures = [outcome for outcome in self.outcomes.values() if isinstance(outcome, Failed)]
        if len(failures) < len(self.world.ranks):
            return False
        if len(failures) == 1:
            return True
        if len({failure.phase for failure in failures}) > 1:
            return False
        if any(failure.kind == errors.CommunicationError.__name__ for failure in failures):
            return False  # their groups were given up
        alike = len({(failure.kind, failure.message) for failure in failures}) == 1
        return failures[0].phase is not Phase.STEPS or (alike and failures[0].kind in {_CANCELLED, *_RAISED_ALIKE})

    def give_up(self, reason: str) -> None:
        """Wait for nobody any longer."""
        for rank in self.waiting:
            self.outcomes[rank] = Silent(reason)

    def error(self) -> Exception:
        """What is raised for this part; what the rank to blame has printed is kept, as the message says."""
        rank = culprit({rank: o for rank, o in self.outcomes.items() if not isinstance(o, (Ready, Done))})
        outcome = self.outcomes[rank]
        if isinstance(outcome, messages.Failed) and outcome.kind in {_CANCELLED, *_RAISED_ALIKE}:
            kind: type[Exception] = getattr(errors, outcome.kind)
            return kind(outcome.message)
        raised = (outcome.traceback or "") if isinstance(outcome, messages.Failed) else ""
        log = kept_file(f"replica{self.world.replica}-rank{rank.rank}.log", rank.printed() + raised)
        return EngineError(f"{self._who(rank)} {_explained(outcome, rank)}\n(log: {log})")

    def _who(self, rank: RankProcess) -> str:
        replica = f" of replica {self.world.replica}" if self.world.replica else ""
        kinds = {outcome.kind if isinstance(outcome, messages.Failed) else None for outcome in self.outcomes.values()}
        silent = [r.rank for r, outcome in self.outcomes.items() if outcome == self.outcomes[rank]]
        if isinstance(self.outcomes[rank], Silent) and len(silent) > 1:
            return f"ranks {', '.join(map(str, sorted(silent)))}{replica}"
        if len(self.outcomes) > 1 and len(kinds) == 1 and None not in kinds:
            return f"all ranks{replica} failed alike; rank {rank.rank}"
        return f"rank {rank.rank}{replica}"


def _explained(outcome: Outcome, rank: RankProcess) -> str:
    if isinstance(outcome, Failed):
        return f"failed {outcome.phase.value}: {outcome.kind}: {outcome.message}"
    return in_words(outcome, rank.process.pid)


class _Interrupt:
    """In the inbox: somebody pressed Ctrl-C."""


class Turn:
    """Waits for the ranks to serve a request, or to load.

    While it waits in the main thread, Ctrl-C is counted instead of raised, so that no answer is lost: the first one
    cancels the request, the second one gives the ranks up.

    Args:
        number: Of the request; zero is loading, which cannot be cancelled.
        parts: Who does what.
        inbox: Where answers come.
        timeout: Seconds without any answer after which the ranks are given up.
    """

    def __init__(self, number: int, parts: list[Part], inbox: Inbox, timeout: float) -> None:
        self.parts = parts
        self.interrupted = 0
        self.cancelled = False
        self.stopped_by: BaseException | None = None
        self._number = number
        self._inbox = inbox
        self._timeout = timeout
        self._heard = time.monotonic()
        self._counting = False
        self._watch = Watch()

    def cancel(self) -> None:
        """Have all ranks give the request up at their next step; from any thread."""
        self.cancelled = True
        self._cancel_worlds()

    def collect(self, on_progress: Callable[[Part, Progress], None] | None = None) -> None:
        """Wait until every rank has ended, failed or been given up.

        Args:
            on_progress: Called after each step of a world; what it raises cancels the request.
        """
        with self._interrupts_counted():
            while any(part.waiting for part in self.parts):
                self._hear(on_progress)

    def broken(self) -> list[World]:
        """The worlds that cannot serve another request, once all ranks have ended."""
        return [part.world for part in self.parts if not (part.intact if self._number else part.succeeded)]

    def _hear(self, on_progress: Callable[[Part, Progress], None] | None) -> None:
        busy = [part for part in self.parts if part.waiting]
        self._give_up_stopped(busy)
        limit = min(self._heard + self._timeout, *(part.deadline for part in busy), math.inf)
        try:
            rank, message = self._inbox.get(timeout=min(POLL, max(0.0, limit - time.monotonic())))
        except queue.Empty:
            self._time_is_over(busy)
            return
        if isinstance(message, _Interrupt):
            self._interrupt()
            return
        part = next((part for part in busy if rank in part.waiting), None)
        if part is None or getattr(message, "number", self._number) != self._number:
            return  # from a world that was given up, or of a request that was
        self._heard = time.monotonic()
        if isinstance(message, Progress):
            self._tell(on_progress, part, message)
            return
        part.outcomes[rank] = message
        if isinstance(message, (messages.Failed, Gone)):
            part.deadline = min(part.deadline, self._heard + _SECONDS_OF_GRACE)
            self._cancel_worlds()  # the other replicas' work is in vain
        if isinstance(message, Gone) and message.exit_code < 0:
            part.give_up("waited for a rank that is gone")

    def _give_up_stopped(self, busy: list[Part]) -> None:
        """Wait no longer for ranks that are stopped, nor for those that wait for them."""
        found = self._watch.look([rank for part in busy for rank in part.waiting])  # which counts from look to look
        for part in busy:
            stopped = {rank: found[rank] for rank in part.waiting if rank in found}
            part.outcomes.update(stopped)
            if stopped:
                self._cancel_worlds()
                part.give_up("waited for a rank that is stopped")

    def _tell(self, on_progress: Callable[[Part, Progress], None] | None, part: Part, progress: Progress) -> None:
        if on_progress is None or self.stopped_by is not None:
            return
        try:
            with self._interrupts_raised():
                on_progress(part, progress)
        except BaseException as error:
            self.stopped_by = error
            self._cancel_worlds()

    def _time_is_over(self, busy: list[Part]) -> None:
        now = time.monotonic()
        for part in busy:
            if now >= min(part.deadline, self._heard + self._timeout):
                part.outcomes.update(self._watch.stopped_now(part.waiting))
            if now >= part.deadline:
                part.give_up("did not end after another rank had failed")
            elif now >= self._heard + self._timeout:
                part.give_up(f"gave no sign of life for {self._timeout:g} s")

    def _interrupt(self) -> None:
        if self._number == 0 or self.interrupted > 1:
            for part in self.parts:
                part.give_up("was interrupted")
        else:
            self._cancel_worlds()

    def _cancel_worlds(self) -> None:
        for part in self.parts:
            part.world.cancel(self._number)

    def _count_interrupt(self, *_: Any) -> None:
        self.interrupted += 1
        self._inbox.put((None, _Interrupt()))

    @contextmanager
    def _interrupts_counted(self) -> Iterator[None]:
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._count_interrupt)
        self._counting = True
        try:
            yield
        finally:
            self._counting = False
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def _interrupts_raised(self) -> Iterator[None]:
        """While a callback runs, which is the user's to interrupt."""
        if not self._counting:
            yield
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._count_interrupt)
