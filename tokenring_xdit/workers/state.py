"""One request on its way through ranks, as a state machine: events in, instructions out.

It starts nothing, sends nothing and waits for nothing; :mod:`~tokenring_xdit.workers.attempt` feeds it. It knows who
has ended and how, when nobody is waited for any longer, whose failure came first, and whether ranks can serve the next
request or have to be started again, because messages of this one may be left between them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tokenring_xdit import errors
from tokenring_xdit.workers.blame import culprit, is_lost_for_certain
from tokenring_xdit.workers.messages import Answer, Failed, Gone, Phase, Progress, RankOutcome, Silent, Stopped

__all__ = [
    "AGREED",
    "Cancel",
    "CancelAsked",
    "Event",
    "Heard",
    "Instruction",
    "Interrupted",
    "Limits",
    "Looked",
    "RequestAttempt",
    "Restart",
    "Show",
    "TimePassed",
]

W = TypeVar("W", bound=Hashable)

AGREED = frozenset(
    error.__name__
    for error in (
        errors.AgreementError,
        errors.CancelledError,
        errors.ConfigurationError,
        errors.KernelError,
        errors.ScheduleError,
        errors.UnsupportedError,
    )
)
"""Refusals, which ranks raise before they send anything, and cancelling, on which they agree between two steps."""

_GAVE_UP = errors.CommunicationError.__name__


@dataclass(frozen=True)
class Limits:
    """How long ranks are waited for, in seconds.

    Attributes:
        silence: Without any message from a rank.
        explain: After a first failure, for the others to report: one of them may be the cause.
        stopped: For a rank that is stopped.
        in_all: Whether ``silence`` counts from the start instead, whatever is heard.
    """

    silence: float
    explain: float
    stopped: float = math.inf
    in_all: bool = False


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard(Generic[W]):
    """A rank said something, or its process has ended."""

    worker: W
    message: Answer | Failed | Gone | Progress
    now: float


@dataclass(frozen=True)
class Looked(Generic[W]):
    """It was looked which ranks are stopped: for how many seconds each of them has been."""

    stopped: Mapping[W, float]


@dataclass(frozen=True)
class TimePassed:
    """Nothing was heard until now."""

    now: float


@dataclass(frozen=True)
class CancelAsked:
    """Somebody wants request ``number`` given up at its next step."""

    number: int


@dataclass(frozen=True)
class Interrupted:
    """Somebody pressed Ctrl-C during request ``number``."""

    number: int


Event = Heard[W] | Looked[W] | TimePassed | CancelAsked | Interrupted

# -- instructions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cancel:
    """Have a team give the request up at its next step."""

    team: int


@dataclass(frozen=True)
class Restart:
    """A team has ended and cannot serve another request: end its processes."""

    team: int


@dataclass(frozen=True)
class Show:
    """A rank of a team goes on: show that to whoever asked."""

    team: int
    content: Any


Instruction = Cancel | Restart | Show


class RequestAttempt(Generic[W]):
    """What teams of ranks do of one request. Ranks exchange messages with those of their own team only.

    Attributes:
        teams: The ranks of each.
        outcomes: How the request ended for each rank, in the order in which that was known.

    Args:
        number: Of the request; 0 is loading, which cannot be cancelled, and after which ranks serve only if all loaded.
        teams: The ranks of each.
        limits: How long they are waited for.
        now: The moment at which they were asked, on the clock of the events.
    """

    def __init__(self, number: int, teams: Sequence[Sequence[W]], limits: Limits, now: float) -> None:
        self.teams = tuple(tuple(team) for team in teams)
        self.outcomes: dict[W, RankOutcome] = {}
        self._number = number
        self._limits = limits
        self._heard = now
        self._explained = [math.inf] * len(self.teams)  # when the others of a team are not waited for any longer
        self._stopped: Mapping[W, float] = {}
        self._lost: dict[W, Gone] = {}  # which had answered
        self._interrupts = 0
        self._team_of = {worker: index for index, team in enumerate(self.teams) for worker in team}
        self._restarted: set[int] = set()

    # -- what is so ------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[W]:
        """Ranks that have not ended."""
        return [worker for worker in self._team_of if worker not in self.outcomes]

    @property
    def deadline(self) -> float:
        """When somebody is not waited for any longer, if nothing is heard until then."""
        return min((self._end_of(index) for index in self._busy()), default=math.inf)

    def succeeded(self, team: int) -> bool:
        """Whether all ranks of a team did what they were asked."""
        return all(isinstance(self.outcomes.get(worker), Answer) for worker in self.teams[team])

    def reusable(self, team: int) -> bool:
        """Whether a team can serve the next request: no message of this one is left between its ranks."""
        if any(worker in self._lost for worker in self.teams[team]):
            return False
        if self.succeeded(team):
            return True
        ended = [self.outcomes.get(worker) for worker in self.teams[team]]
        failures = [outcome for outcome in ended if isinstance(outcome, Failed)]
        phases = {failure.phase for failure in failures}
        if len(failures) < len(ended) or len(phases) > 1 or phases & {None, Phase.LOADING} or self._number == 0:
            return False
        if len(failures) == 1:  # a rank alone
            return True
        if any(failure.kind == _GAVE_UP for failure in failures):
            return False  # their groups were given up
        alike = len({(failure.kind, failure.message) for failure in failures}) == 1
        return Phase.STEPS not in phases or (alike and failures[0].kind in AGREED)

    def answers(self, team: int) -> list[Any]:
        """What the ranks of a team that succeeded have answered."""
        return [outcome.content for w in self.teams[team] if isinstance(outcome := self.outcomes[w], Answer)]

    def failures(self, team: int) -> dict[W, RankOutcome]:
        """How it ended for those that did not succeed, or died since, in the order in which that was known."""
        mine = set(self.teams[team])
        ended = {**self.outcomes, **self._lost}
        return {w: o for w, o in ended.items() if w in mine and not isinstance(o, Answer)}

    def culprit(self, team: int) -> W:
        """The rank whose failure came first, of a team that has any."""
        return culprit(self.failures(team))

    # -- what happens ----------------------------------------------------------------------------------------------

    def handle(self, event: Event[W]) -> list[Instruction]:
        """Take note of an event; returns what is to be done."""
        if isinstance(event, Heard):
            done = self._hear(event)
        elif isinstance(event, Looked):
            done = self._see(event)
        elif isinstance(event, TimePassed):
            done = self._pass_time(event.now)
        else:
            done = self._interrupt(event)
        return done + self._restarts()

    def _hear(self, event: Heard[W]) -> list[Instruction]:
        worker, message = event.worker, event.message
        team = self._team_of.get(worker)
        if team is not None and isinstance(message, Gone) and isinstance(self.outcomes.get(worker), Answer):
            self._lost[worker] = message
        if team is None or worker in self.outcomes or not self._concerns(message):
            return []  # of a rank that was given up, or of a request that was
        if not self._limits.in_all:
            self._heard = max(self._heard, event.now)
        if isinstance(message, Progress):
            return [Show(team, message.content)]
        self.outcomes[worker] = message
        if isinstance(message, Answer):
            return []
        self._explained[team] = min(self._explained[team], event.now + self._limits.explain)
        if is_lost_for_certain(message):
            self._give_up(team, "waited for a rank that is gone")
        return self._cancel()  # the other teams' work is in vain

    def _concerns(self, message: Answer | Failed | Gone | Progress) -> bool:
        if isinstance(message, Gone):
            return True
        return message.number == self._number or (message.number is None and isinstance(message, Failed))

    def _see(self, event: Looked[W]) -> list[Instruction]:
        self._stopped = event.stopped
        found = {w: s for w, s in event.stopped.items() if w in self.waiting and s >= self._limits.stopped}
        for worker, seconds in found.items():
            self.outcomes[worker] = Stopped(seconds)
        for team in {self._team_of[worker] for worker in found}:
            self._give_up(team, "waited for a rank that is stopped")
        return self._cancel() if found else []

    def _pass_time(self, now: float) -> list[Instruction]:
        over = [team for team in self._busy() if now >= self._end_of(team)]
        for team in over:
            waiting = self._waiting_of(team)
            self.outcomes |= {w: Stopped(self._stopped[w]) for w in waiting if w in self._stopped}
            late = now >= self._explained[team]
            silence = f"gave no sign of life for {self._limits.silence:g} s"
            self._give_up(team, "did not end after another rank had failed" if late else silence)
        return self._cancel() if over else []

    def _interrupt(self, event: CancelAsked | Interrupted) -> list[Instruction]:
        if event.number != self._number:
            return []
        self._interrupts += isinstance(event, Interrupted)
        if isinstance(event, Interrupted) and (self._number == 0 or self._interrupts > 1):
            for team in self._busy():
                self._give_up(team, "was interrupted")
        return self._cancel()

    def _cancel(self) -> list[Instruction]:
        return [Cancel(team) for team in self._busy()] if self._number else []

    def _restarts(self) -> list[Instruction]:
        """Once for each team that has ended and cannot go on."""
        busy = set(self._busy()) | self._restarted
        broken = [team for team in range(len(self.teams)) if team not in busy and not self.reusable(team)]
        self._restarted.update(broken)
        return [Restart(team) for team in broken]

    # -- parts -----------------------------------------------------------------------------------------------------

    def _waiting_of(self, team: int) -> list[W]:
        return [worker for worker in self.teams[team] if worker not in self.outcomes]

    def _busy(self) -> list[int]:
        return [index for index in range(len(self.teams)) if self._waiting_of(index)]

    def _end_of(self, team: int) -> float:
        return min(self._explained[team], self._heard + self._limits.silence)

    def _give_up(self, team: int, reason: str) -> None:
        for worker in self._waiting_of(team):
            self.outcomes[worker] = Silent(reason)
