"""Runs programs on a network that is only described: a discrete-event simulation of ranks and links.

Transfers are fluid: those that share a link share its rate evenly, each as fast as its slowest link lets it
(max-min fairness), both directions of a link apart. Ranks compute at full speed, or share the cores of one machine.
Hosts that launch what GPUs do run ahead of them, from call to call; so a call takes as long as the slower of both.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush

import numpy as np

from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.planning.effects import NO_EFFECTS, Effects
from tokenring_xdit.planning.machine import Machine
from tokenring_xdit.planning.steps import Message, Posting, TimedStep, Work, timed
from tokenring_xdit.planning.traffic import Traffic
from tokenring_xdit.schedule import Activity, Span, Timeline, VerifiedSchedule
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.topology import Network
from tokenring_xdit.topology.sharing import Direction

__all__ = ["Simulation", "run", "run_steps", "simulate"]

_SAME_TIME = 1e-9
"""Relative: events so close to each other are one, so that what ranks do alike is computed once."""


@dataclass(frozen=True)
class Simulation:
    """What came out.

    Attributes:
        name: The strategy.
        work: Seconds until the last rank's own work is done.
        launch: Seconds that the slowest host takes to launch it.
        floor: Seconds that the same works and transfers take at least, in whatever order.
        exposed: Seconds of it in which the rank that computes longest does not compute: exposed communication.
        sent: Bytes that each rank sent.
        messages: Messages that each rank sent.
        link_bytes: Bytes that each direction of a link carried, by ``(from, to)``.
        link_busy: Share of the makespan for which it carried anything at all.
    """

    name: str
    work: float
    launch: float
    floor: float
    exposed: float
    sent: tuple[int, ...]
    messages: tuple[int, ...]
    link_bytes: dict[Direction, float]
    link_busy: dict[Direction, float]
    _stretches: tuple[_Stretch, ...] = field(repr=False, compare=False)  # by their messages, unlike in every run

    @property
    def makespan(self) -> float:
        """Seconds of the call, one of many: what the slower of ranks and hosts takes."""
        return max(self.work, self.launch)

    @cached_property
    def timeline(self) -> Timeline:
        """What every rank did when."""
        spans: list[Span] = []
        for rank, activity, start, end, what in self._stretches:
            if isinstance(what, Message):
                times, rest = (start, end), (str(what.what), what.channel)
                spans.append(Span(what.source, Activity.SEND, *times, *rest, what.target, what.size))
                spans.append(Span(what.target, Activity.RECEIVE, *times, *rest, what.source, what.size))
            elif activity is Activity.WAIT:
                awaited = ", ".join(dict.fromkeys(str(message.what) for message in what.needs))
                spans.append(Span(rank, activity, start, end, awaited))
            elif isinstance(what, Work):
                spans.append(Span(rank, activity, start, end, str(what.what)))
        return Timeline(self.name, len(self.sent), tuple(spans))


def simulate(
    schedule: VerifiedSchedule,
    network: Network,
    problem: Problem,
    machine: Machine,
    effects: Effects = NO_EFFECTS,
) -> Simulation:
    """Time a schedule.

    Args:
        schedule: What the ranks do.
        network: Rank ``r`` is at its ``r``-th host.
        problem: The attention call.
        machine: Speeds of the ranks.
        effects: What else happens.

    Raises:
        ConfigurationError: There are fewer hosts than ranks, or the problem is of another number of ranks.
    """
    plan = schedule.schedule
    if plan.world_size != problem.ranks:
        raise ConfigurationError(
            f"schedule '{plan.name}' is for {plan.world_size} ranks, the problem for {problem.ranks}"
        )
    return run(plan.name, lower(plan, problem, in_order=machine.in_order), network, machine, effects)


def run(
    name: str, programs: Sequence[RankProgram], network: Network, machine: Machine, effects: Effects = NO_EFFECTS
) -> Simulation:
    """Time programs of ranks; see :func:`simulate`.

    Raises:
        ConfigurationError: There are fewer hosts than ranks.
        ScheduleError: Some ranks wait for what never comes.
    """
    return run_steps(name, timed(programs, machine, effects), network, machine, effects)


def run_steps(
    name: str,
    steps: Sequence[Sequence[TimedStep]],
    network: Network,
    machine: Machine,
    effects: Effects = NO_EFFECTS,
) -> Simulation:
    """Time what ranks do in order.

    Raises:
        ConfigurationError: There are fewer hosts than ranks.
        ScheduleError: Some ranks wait for what never comes.
    """
    network.refuse_ranks(len(steps))
    return _World(name, steps, network, machine, effects).run()


class _RunningRank:
    """Where a rank is in its program."""

    __slots__ = ("at", "attended", "began", "busy", "free", "steps")

    def __init__(self, steps: Sequence[TimedStep]) -> None:
        self.steps = steps
        self.at = 0
        self.busy = False  # with the step that it is at
        self.began = 0.0
        self.free = 0.0  # when it had nothing to do, from where it waits
        self.attended = 0.0  # seconds


_EXPECTED, _HANDED, _STARTED, _GONE, _ARRIVED = (1 << bit for bit in range(5))
"""What has become of a message; numbers, as enum's flags take longer to combine than all else takes."""

_Stretch = tuple[int, Activity, float, float, Message | TimedStep]
"""Of a rank what it did, from when to when; a wait is for a step, a transfer of a message, and of its sender."""


class _World:
    def __init__(
        self,
        name: str,
        programs: Sequence[Sequence[TimedStep]],
        network: Network,
        machine: Machine,
        effects: Effects,
    ) -> None:
        self.name, self.machine, self.effects = name, machine, effects
        self.now = 0.0
        self.ranks = [_RunningRank((*_late(effects.late(rank)), *steps)) for rank, steps in enumerate(programs)]
        self.states: dict[Message, int] = defaultdict(int)
        self.left = np.full(len(self.ranks), np.inf)  # seconds of the step that a rank is busy with
        self.look = set(range(len(self.ranks)))  # ranks for which something has changed
        self.connections: dict[tuple[int, int, str], deque[Message]] = defaultdict(deque)  # in order, the first moves
        self.exchanges: dict[tuple[int, str], deque[Posting]] = defaultdict(deque)  # of a rank on a channel in order
        self.under_way: dict[tuple[int, str], int] = defaultdict(int)  # transfers of the first of them, both ways
        self.traffic = Traffic(network, effects)
        self.landing: list[tuple[float, int, Message, float]] = []  # a heap: their last byte has left; they arrive then
        self.landed = 0  # and how many have been on it: this many numbers are taken
        self.stretches: list[_Stretch] = []

    def run(self) -> Simulation:
        while True:
            while self.look:
                for number in sorted(self.look):
                    self._go_on(number)
            if all(rank.at == len(rank.steps) for rank in self.ranks):
                break
            self._advance()
        launch = max((sum(step.launch for step in rank.steps) for rank in self.ranks), default=0.0)
        work = max((rank.free for rank in self.ranks), default=0.0)
        makespan = max(work, launch)
        exposed = makespan - max((rank.attended for rank in self.ranks), default=0.0)
        busy = {link: seconds / (makespan or 1.0) for link, seconds in self.traffic.link_busy.items()}
        sends = [[message.size for step in _posts(rank.steps) for message in step.sends] for rank in self.ranks]
        sent, messages = tuple(map(sum, sends)), tuple(map(len, sends))
        return Simulation(
            self.name,
            work,
            launch,
            self._floor(launch),
            exposed,
            sent,
            messages,
            self.traffic.link_bytes,
            busy,
            tuple(self.stretches),
        )

    def _floor(self, launch: float) -> float:
        works = [sum(step.seconds for step in rank.steps) for rank in self.ranks]
        together = 0.0 if self.machine.cores is None else sum(works) / self.machine.cores
        return max(*works, together, self.traffic.busiest, launch)

    # -- ranks ---------------------------------------------------------------------------------------------------

    def _go_on(self, number: int) -> None:
        """Let a rank end what is over, and begin what it can."""
        self.look.discard(number)
        rank = self.ranks[number]
        if not rank.busy and rank.at < len(rank.steps) and self._ready(number, rank.steps[rank.at]):
            step = rank.steps[rank.at]
            if self.now > rank.free:
                self.stretches.append((number, Activity.WAIT, rank.free, self.now, step))
            rank.busy, rank.began = True, self.now
            self.left[number] = step.seconds
        if rank.busy and self.left[number] <= 0.0:
            self._end(number, rank)
            self.look.add(number)

    def _ready(self, number: int, step: TimedStep) -> bool:
        states = self.states
        return all(states[message] & (_GONE if message.source == number else _ARRIVED) for message in step.needs)

    def _end(self, number: int, rank: _RunningRank) -> None:
        rank.busy, rank.free = False, self.now
        self.left[number] = np.inf
        step = rank.steps[rank.at]
        rank.at += 1
        if isinstance(step, Work):
            if step.activity is not Activity.WAIT:
                self.stretches.append((number, step.activity, rank.began, self.now, step))
            if step.activity is Activity.ATTEND:
                rank.attended += self.now - rank.began
        elif not step.ordered:
            self._hand_over(step)
        elif step.recvs or step.sends:
            exchanges = self.exchanges[number, step.ordered]
            exchanges.append(step)
            if len(exchanges) == 1:
                self._begin(number, step)

    # -- messages ------------------------------------------------------------------------------------------------

    def _begin(self, number: int, exchange: Posting) -> None:
        """Begin an exchange on a channel in order, now that those before it are over."""
        self.under_way[number, exchange.ordered] = len(exchange.recvs) + len(exchange.sends)
        self._hand_over(exchange)

    def _hand_over(self, post: Posting) -> None:
        for message in post.recvs:
            self.states[message] |= _EXPECTED
            self._start(message.source, message.target, message.channel)
        for message in post.sends:
            self.states[message] |= _HANDED
            self.connections[message.source, message.target, message.channel].append(message)
            self._start(message.source, message.target, message.channel)

    def _one_less(self, number: int, channel: str) -> None:
        """A transfer of a rank is over; the last one of an exchange on a channel in order ends that as a whole."""
        exchanges = self.exchanges[number, channel]
        self.under_way[number, channel] -= 1
        if not self.under_way[number, channel]:
            for message in exchanges.popleft().recvs:
                self.states[message] |= _ARRIVED
            if exchanges:
                self._begin(number, exchanges[0])

    def _start(self, source: int, target: int, channel: str) -> None:
        """Start the first message of a connection, once both sides have posted it."""
        queue = self.connections[source, target, channel]
        if not queue or self.states[queue[0]] != _EXPECTED | _HANDED:
            return
        first = queue[0]
        if first.after is not None and not self.states[first.after] & _GONE:
            return
        self.states[first] |= _STARTED
        self.traffic.start(first, self.now)

    # -- time ----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go on to the next event."""
        self.traffic.share()
        speed = self._speed()
        landing = self.landing[0][0] - self.now if self.landing else math.inf
        step = max(0.0, min(float(self.left.min()) / speed, self.traffic.next_end(), landing))
        if step == math.inf:
            stuck = [number for number, rank in enumerate(self.ranks) if rank.at < len(rank.steps)]
            raise ScheduleError(f"'{self.name}': ranks {stuck} wait for what never comes")
        end = self.now + step
        slack = step * _SAME_TIME + 1e-15
        self.left -= step * speed
        over = np.flatnonzero(self.left <= slack)
        self.left[over] = 0.0
        self.look.update(over.tolist())
        gone = self.traffic.move(step, slack)
        self.now = end
        for message, since in gone:
            self._leave(message, since)
        while self.landing and self.landing[0][0] <= end + slack:
            _, _, message, since = heappop(self.landing)
            self._arrive(message, since)

    def _speed(self) -> float:
        """How fast each rank computes: fully, or its share of cores that ranks and links use together."""
        if self.machine.cores is None:
            return 1.0
        working = int(np.isfinite(self.left).sum())
        return self.effects.speed(self.machine.cores, working, self.traffic.work) if working else 1.0

    def _leave(self, message: Message, since: float) -> None:
        """Its last byte has left; what waited for that starts."""
        self.states[message] |= _GONE
        source, target, channel = message.source, message.target, message.channel
        self.connections[source, target, channel].popleft()
        if (source, channel) in self.exchanges:
            self._one_less(source, channel)
        self.look.add(source)
        self.landed += 1
        arrives = self.now + self.traffic.delay(message) + self.machine.latency
        heappush(self.landing, (arrives, self.landed, message, since))
        self._start(source, target, channel)  # what stands behind it
        if message.before is not None:
            self._start(target, source, channel)

    def _arrive(self, message: Message, since: float) -> None:
        if (message.target, message.channel) in self.exchanges:
            self._one_less(message.target, message.channel)
        else:
            self.states[message] |= _ARRIVED
        self.look.add(message.target)
        self.stretches.append((message.source, Activity.SEND, since, self.now, message))


def _posts(steps: Sequence[TimedStep]) -> Iterator[Posting]:
    return (step for step in steps if isinstance(step, Posting))


def _late(seconds: float) -> tuple[TimedStep, ...]:
    """What a rank does that begins so late."""
    return (Work(Activity.WAIT, (), seconds, "a late start"),) if seconds else ()
