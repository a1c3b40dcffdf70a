"""How a request ends, for every fault of its ranks: the state machine alone, without processes."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenring_xdit.workers.messages import Answer, Failed, Gone, Phase, Progress, Silent, Stopped
from tokenring_xdit.workers.state import (
    Cancel,
    CancelAsked,
    Event,
    Heard,
    Interrupted,
    Limits,
    Looked,
    RequestAttempt,
    Restart,
    Show,
    TimePassed,
)

LIMITS = Limits(silence=60, explain=10, stopped=30)
NUMBER = 7
KILLED, ABORTED, EXITED = Gone(-signal.SIGKILL), Gone(-signal.SIGABRT), Gone(3)


def error(kind: str, phase: Phase | None = Phase.STEPS, *, time: float = 1.0, message: str = "why") -> Failed:
    return Failed(kind=kind, message=message, time=time, number=NUMBER, phase=phase)


def let_down(time: float = 1.0) -> Failed:
    return error("CommunicationError", time=time)


def heard(worker: int, message: Any, now: float = 1.0) -> Heard[int]:
    return Heard(worker, message, now)


ANSWER = Answer(NUMBER, "done")
OUT_OF_MEMORY = error("OutOfMemoryError")
CANCELLED = error("CancelledError")
LATE = TimePassed(1000.0)


@dataclass
class Case:
    """What happens to a request of two ranks, and what becomes of them.

    Attributes:
        events: What happens.
        culprit: The rank whose failure came first; ``None`` where all succeed.
        reusable: Whether the ranks serve the next request.
    """

    events: list[Event[int]]
    culprit: int | None
    reusable: bool
    outcomes: dict[int, Any] = field(default_factory=dict)


CASES = {
    "both answer": Case([heard(0, ANSWER), heard(1, ANSWER)], None, True),
    "killed before answering": Case([heard(1, KILLED)], 1, False, {0: Silent("waited for a rank that is gone")}),
    "killed while the other answers": Case([heard(0, ANSWER), heard(1, KILLED)], 1, False, {0: ANSWER}),
    "killed after answering": Case([heard(1, ANSWER), heard(1, KILLED), heard(0, ANSWER)], 1, False, {1: ANSWER}),
    "killed, but missed first": Case([heard(0, let_down()), heard(1, KILLED)], 1, False),
    "ended by itself": Case([heard(1, EXITED), heard(0, let_down())], 1, False),
    "ended after the other's error": Case([heard(1, EXITED), heard(0, OUT_OF_MEMORY)], 0, False),
    "aborted by a watchdog that waited for the other": Case([heard(1, ABORTED), heard(0, KILLED)], 0, False),
    "stopped": Case([Looked({1: 29.0}), Looked({1: 30.0})], 1, False, {1: Stopped(30.0)}),
    "stopped when the other's time to explain is over": Case(
        [heard(0, let_down()), Looked({1: 3.0}), TimePassed(11.0)], 1, False, {1: Stopped(3.0)}
    ),
    "stopped for a moment": Case([Looked({1: 20.0}), Looked({}), heard(0, ANSWER), heard(1, ANSWER)], None, True),
    "error on one, the other silent": Case([heard(0, OUT_OF_MEMORY), TimePassed(11.0)], 0, False),
    "error on one, the other let down": Case([heard(0, OUT_OF_MEMORY), heard(1, let_down())], 0, False),
    "the same, heard in the other order": Case([heard(1, let_down()), heard(0, OUT_OF_MEMORY)], 0, False),
    "error on one, the other answers": Case([heard(0, error("KeyError", Phase.AFTER)), heard(1, ANSWER)], 0, False),
    "two errors, the second heard first": Case(
        [heard(0, error("KeyError", time=2.0)), heard(1, error("ValueError", time=1.0))], 1, False
    ),
    "refused by both": Case([heard(i, error("ConfigurationError", Phase.BEFORE)) for i in (0, 1)], 0, True),
    "refused by both between steps": Case([heard(i, error("UnsupportedError")) for i in (0, 1)], 0, True),
    "refused for different reasons between steps": Case(
        [heard(i, error("UnsupportedError", message=f"{i}")) for i in (0, 1)], 0, False
    ),
    "no memory before the first step": Case([heard(i, error("MemoryError", Phase.BEFORE)) for i in (0, 1)], 0, True),
    "no memory between steps": Case([heard(i, OUT_OF_MEMORY) for i in (0, 1)], 0, False),
    "no memory after the last step": Case([heard(i, error("MemoryError", Phase.AFTER)) for i in (0, 1)], 0, True),
    "errors in different phases": Case(
        [heard(0, error("MemoryError", Phase.BEFORE)), heard(1, error("MemoryError", Phase.AFTER))], 0, False
    ),
    "groups given up after the last step": Case(
        [heard(0, error("MemoryError", Phase.AFTER)), heard(1, error("CommunicationError", Phase.AFTER))], 0, False
    ),
    "errors of ranks that end": Case([heard(i, error("MemoryError", None)) for i in (0, 1)], 0, False),
    "an error before the request was taken": Case(
        [heard(i, Failed(kind="ImportError", message="no", time=0.0)) for i in (0, 1)], 0, False
    ),
    "cancelled": Case([CancelAsked(NUMBER), heard(0, CANCELLED), heard(1, CANCELLED)], 0, True),
    "cancelled too late": Case([CancelAsked(NUMBER), heard(0, ANSWER), heard(1, ANSWER)], None, True),
    "interrupted": Case([Interrupted(NUMBER), heard(0, CANCELLED), heard(1, CANCELLED)], 0, True),
    "interrupted twice": Case([Interrupted(NUMBER)] * 2, 0, False, dict.fromkeys((0, 1), Silent("was interrupted"))),
    "late answers of an older request": Case(
        [heard(0, Answer(NUMBER - 1, "old")), heard(1, error("KeyError")), heard(0, let_down())], 1, False
    ),
    "late errors of an older request": Case(
        [heard(0, Failed(kind="E", message="", time=0.0, number=NUMBER - 1)), heard(0, ANSWER), heard(1, ANSWER)],
        None,
        True,
    ),
    "cancelling of an older request": Case(
        [CancelAsked(NUMBER - 1), Interrupted(NUMBER - 1), Interrupted(NUMBER), heard(0, ANSWER), heard(1, ANSWER)],
        None,
        True,
    ),
    "all silent": Case([TimePassed(60.0)], 0, False, dict.fromkeys((0, 1), Silent("gave no sign of life for 60 s"))),
    "silent after a sign of life": Case([heard(0, Progress(NUMBER, "step"), 50.0), TimePassed(110.0)], 0, False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_fault(case: Case) -> None:
    attempt = RequestAttempt(NUMBER, [(0, 1)], LIMITS, 0.0)
    instructions = []
    for event in case.events:
        assert attempt.waiting
        instructions += attempt.handle(event)
    assert not attempt.waiting
    assert (None if not attempt.failures(0) else attempt.culprit(0)) == case.culprit
    assert attempt.reusable(0) is case.reusable
    assert [i for i in instructions if isinstance(i, Restart)] == ([] if case.reusable else [Restart(0)])
    assert case.outcomes.items() <= attempt.outcomes.items()


@pytest.mark.parametrize("failing", [KILLED, error("MemoryError", Phase.BEFORE)])
def test_replicas_of_one_that_failed_are_cancelled_and_serve_on(failing: Any) -> None:
    attempt = RequestAttempt(NUMBER, [(0,), (1, 2)], LIMITS, 0.0)
    instructions = attempt.handle(heard(0, failing))
    assert Cancel(1) in instructions
    assert (Restart(0) in instructions) is (failing == KILLED)  # a rank alone leaves no messages
    assert attempt.waiting == [1, 2]
    assert attempt.handle(heard(1, CANCELLED)) == [Cancel(1)]
    assert attempt.handle(heard(2, CANCELLED)) == []
    assert attempt.reusable(1)


def test_a_stopped_rank_of_any_replica_is_found() -> None:
    attempt = RequestAttempt(NUMBER, [(0, 1), (2, 3)], LIMITS, 0.0)
    assert attempt.handle(Looked({3: 30.0})) == [Cancel(0), Restart(1)]
    assert attempt.outcomes == {3: Stopped(30.0), 2: Silent("waited for a rank that is stopped")}
    assert attempt.waiting == [0, 1]


def test_steps_are_shown() -> None:
    attempt = RequestAttempt(NUMBER, [(0,), (1,)], LIMITS, 0.0)
    assert attempt.handle(heard(1, Progress(NUMBER, "step"))) == [Show(1, "step")]
    assert attempt.handle(heard(1, Progress(NUMBER - 1, "step"))) == []


@pytest.mark.parametrize(
    ("events", "reusable"),
    [
        ([heard(0, Answer(0, None)), heard(1, Answer(0, None))], True),
        ([heard(i, Failed(kind="E", message="", time=0.0, number=0, phase=Phase.LOADING)) for i in (0, 1)], False),
        ([heard(0, Answer(0, None)), heard(1, KILLED)], False),
        ([Interrupted(0)], False),
    ],
)
def test_ranks_serve_only_if_all_have_loaded(events: Sequence[Event[int]], reusable: bool) -> None:
    attempt = RequestAttempt(0, [(0, 1)], LIMITS, 0.0)
    instructions = [instruction for event in events for instruction in attempt.handle(event)]
    assert not attempt.waiting
    assert instructions == ([] if reusable else [Restart(0)])


@pytest.mark.parametrize(("phase", "reusable"), [(None, False), *((phase, True) for phase in list(Phase)[1:])])
def test_a_rank_alone_that_lives_on_serves_on(phase: Phase | None, reusable: bool) -> None:
    attempt = RequestAttempt(NUMBER, [(0,)], LIMITS, 0.0)
    attempt.handle(heard(0, error("MemoryError", phase)))
    assert attempt.reusable(0) is reusable


def test_time_may_count_from_the_start() -> None:
    attempt = RequestAttempt(NUMBER, [(0, 1)], Limits(60, 1, in_all=True), 0.0)
    attempt.handle(heard(0, ANSWER, 50.0))
    assert attempt.deadline == 60.0


# -- all orders of events ----------------------------------------------------------------------------------------------

EXCHANGES = 2
"""Of a request in the model: each rank sends a message to each other one of its team, and takes theirs."""

FAULTS = ("none", "none", "error", "kill", "exit", "stop", "hang")
STAGES = ("before", *range(EXCHANGES), *(f"amid {n}" for n in range(EXCHANGES)), "after", "answered")


@dataclass
class Rank:
    """A rank of the model.

    Attributes:
        fault: What happens to it, at ``stage``: before anything, before or amid an exchange, after them, or later.
        guarded: Whether it says that it was let down, and notices it after the exchanges too; it gives its groups up.
        sent: Messages that it has sent to each of the others.
        taken: Messages that it has taken from each of the others.
        told: Whether it was told to cancel; the first one's word counts, of each exchange.
    """

    team: list[Rank]
    number: int
    fault: str
    stage: Any
    guarded: bool
    sent: int = 0
    taken: int = 0
    state: str = "runs"
    struck: bool = False
    told: bool = False
    word: dict[int, bool] = field(default_factory=dict)

    @property
    def others(self) -> list[Rank]:
        """Those of its team."""
        return [rank for rank in self.team if rank is not self]

    def fail(self, kind: str, phase: Phase, now: float, message: str = "why") -> Failed:
        """Fail, and live on."""
        self.state = "failed"
        return Failed(kind=kind, message=message, time=now, number=NUMBER, phase=phase)

    def go_on(self, now: float) -> Any:
        """What it says next, or ``None``."""
        if self.state == "answered" and self.strikes_at("answered") and self.fault in ("kill", "exit"):
            return self.strike(Phase.AFTER, now)
        if self.state != "runs":
            return None
        if self.strikes_at("before") and not self.sent:
            return self.strike(Phase.BEFORE, now)
        alone = any(rank.state in ("failed", "gone") for rank in self.others)
        if self.taken == EXCHANGES:
            if self.strikes_at("after"):
                return self.strike(Phase.AFTER, now)
            if alone and self.guarded:
                return self.fail("CommunicationError", Phase.AFTER, now)
            self.state = "answered"
            return ANSWER
        if self.sent == self.taken:
            if self.strikes_at(self.taken):
                return self.strike(Phase.STEPS, now)
            self.sent += 1
        if self.strikes_at(f"amid {self.taken}"):
            return self.strike(Phase.STEPS, now)
        first = self.team[0]
        if any(rank.sent < self.sent for rank in self.others) or (self is not first and self.sent not in first.word):
            return self.fail(self.let_down, Phase.STEPS, now, "gloo/transport") if alone else None
        if self is first:
            self.word[self.sent] = self.told
        self.taken = self.sent
        if first.word[self.sent]:
            return self.fail("CancelledError", Phase.STEPS, now)
        return Progress(NUMBER, self.taken) if self is first else None

    @property
    def let_down(self) -> str:
        """Kind of its error where another rank is gone."""
        return "CommunicationError" if self.guarded else "RuntimeError"

    def strikes_at(self, stage: Any) -> bool:
        """Whether it has its fault now."""
        return self.fault != "none" and self.stage == stage and not self.struck

    def strike(self, phase: Phase, now: float) -> Any:
        """Have its fault."""
        self.struck = True
        if self.fault in ("refuse", "error"):
            return self.fail("UnsupportedError" if self.fault == "refuse" else "ValueError", phase, now)
        self.state = {"kill": "gone", "exit": "gone", "stop": "stopped", "hang": "hangs"}[self.fault]
        return {"kill": KILLED, "exit": EXITED}.get(self.fault)


@st.composite
def worlds(draw: Any) -> list[list[Rank]]:
    """Teams of ranks: with a fault each, all refusing alike, all broken in one exchange, or one after the exchanges."""
    teams: list[list[Rank]] = []
    for size in draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)):
        team: list[Rank] = []
        kind = draw(st.sampled_from(("any", "any", "refusing", "broken", "one after")))
        stage = draw(st.sampled_from(("before", *range(EXCHANGES))))  # of a refusal: before anything is sent
        for member in range(size):
            fault, at = {
                "any": (draw(st.sampled_from(FAULTS)), draw(st.sampled_from(STAGES))),
                "refusing": ("refuse", stage),
                "broken": ("error", draw(st.sampled_from((0, "amid 0")))),
                "one after": ("none" if member else draw(st.sampled_from(("error", "kill"))), "after"),
            }[kind]
            at = "answered" if fault in ("kill", "exit") and draw(st.booleans()) else at
            team.append(Rank(team, sum(map(len, teams)) + len(team), fault, at, draw(st.booleans())))
        teams.append(team)
    return teams


@settings(max_examples=1500)
@given(
    worlds(),
    st.lists(st.tuples(st.sampled_from("gggggglltci"), st.integers(0, 5), st.floats(0.0, 40.0)), max_size=60),
)
def test_in_any_order_of_events(teams: list[list[Rank]], happens: list[tuple[str, int, float]]) -> None:
    """It always ends, names a rank at fault, and lets no ranks serve on between which a message is left."""
    ranks = [rank for team in teams for rank in team]
    attempt = RequestAttempt(NUMBER, [[rank.number for rank in team] for team in teams], LIMITS, 0.0)
    now, stopped, restarted = 0.0, dict[int, float](), list[int]()

    def tell(event: Event[int]) -> None:
        for instruction in attempt.handle(event):
            if isinstance(instruction, Cancel):
                teams[instruction.team][0].told = True
            elif isinstance(instruction, Restart):
                restarted.append(instruction.team)

    for what, number, seconds in [*happens, *[("g", number, 0.0) for number in range(6)] * 4]:
        rank = ranks[number % len(ranks)]
        if not attempt.waiting:
            break
        if what == "g":
            message = rank.go_on(now)
            if message is not None:
                tell(Heard(rank.number, message, now))
        elif what == "l":
            now += seconds
            held = [each.number for each in ranks if each.state == "stopped"]
            stopped = {each: stopped.get(each, 0.0) + seconds for each in held}
            tell(Looked(stopped))
        elif what == "t" and now + seconds < attempt.deadline:
            now += seconds
            tell(TimePassed(now))
        else:
            tell(CancelAsked(NUMBER) if what == "c" else Interrupted(NUMBER))
    if attempt.waiting:  # nobody says anything any more
        assert attempt.deadline <= now + LIMITS.silence
        tell(TimePassed(now + LIMITS.silence))
    assert not attempt.waiting

    for index, team in enumerate(teams):
        failures = attempt.failures(index)
        assert attempt.succeeded(index) or failures
        if failures:
            culprit = attempt.culprit(index)
            known = [each for each in team if each.struck and not isinstance(failures.get(each.number), Silent | None)]
            assert ranks[culprit].struck or not known
            lost = [each for each in failures.values() if each == KILLED or isinstance(each, Stopped)]
            assert failures[culprit] in lost or not lost
        if index not in restarted:
            assert attempt.reusable(index)
            assert all(rank.state in ("answered", "failed") for rank in team)
            assert len(team) == 1 or len({count for rank in team for count in (rank.sent, rank.taken)}) == 1
            gave_up = [o for o in failures.values() if isinstance(o, Failed) and o.kind == "CommunicationError"]
            assert len(team) == 1 or not gave_up
    assert len(set(restarted)) == len(restarted)
