"""Runs programs on a network that is only described: a discrete-event simulation of ranks and wires.

Transfers are fluid: those that share a wire share its rate evenly, each as fast as its slowest wire lets it
(max-min fairness), both directions of a wire apart. Ranks compute at full speed, or share the cores of one machine.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.planning.cost import Cost
from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.planning.programs import Message, Post, Step, Work, of_schedule
from tokenring_xdit.planning.traffic import Traffic
from tokenring_xdit.schedule import Activity, Span, Timeline, VerifiedSchedule
from tokenring_xdit.topology import Network
from tokenring_xdit.topology.sharing import Direction

__all__ = ["Simulation", "run", "simulate"]

_SAME_TIME = 1e-9
"""Relative: events so close to each other are one, so that what ranks do alike is computed once."""

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Its multiples, whole numbers left away, lie as far from each other as can be, however many there are."""

_WORST_SHARE = 0.3
"""Of shared cores that ranks keep, however much the wires ask of them."""


@dataclass(frozen=True)
class Simulation:
    """What came out.

    Attributes:
        timeline: What every rank did when.
        sent: Bytes that each rank sent.
        messages: Messages that each rank sent.
        link_bytes: Bytes that each direction of a wire carried, by ``(from, to)``.
        link_busy: Share of the makespan for which it carried anything at all.
    """

    timeline: Timeline
    sent: tuple[int, ...]
    messages: tuple[int, ...]
    link_bytes: dict[Direction, float]
    link_busy: dict[Direction, float]

    @property
    def makespan(self) -> float:
        """Seconds of the call."""
        return self.timeline.makespan

    @property
    def exposed(self) -> float:
        """Seconds of the call in which the rank that computes longest does not: communication that nothing hides."""
        ranks = range(self.timeline.world_size)
        return self.makespan - max((self.timeline.busy(rank, Activity.ATTEND) for rank in ranks), default=0.0)


def simulate(schedule: VerifiedSchedule, network: Network, problem: Problem, cost: Cost) -> Simulation:
    """Time a schedule.

    Args:
        schedule: What the ranks do.
        network: Rank ``r`` is at its ``r``-th host.
        problem: The attention call.
        cost: Speeds of the ranks.

    Raises:
        ConfigurationError: There are fewer hosts than ranks, or the problem is of another number of ranks.
    """
    plan = schedule.schedule
    if plan.world_size != problem.ranks:
        raise ConfigurationError(
            f"schedule '{plan.name}' is for {plan.world_size} ranks, the problem for {problem.ranks}"
        )
    return run(plan.name, of_schedule(plan, problem, cost), network, cost)


def run(name: str, programs: Sequence[Sequence[Step]], network: Network, cost: Cost) -> Simulation:
    """Time programs of ranks; see :func:`simulate`.

    Raises:
        ConfigurationError: There are fewer hosts than ranks.
        ScheduleError: Some ranks wait for what never comes.
    """
    if len(programs) > len(network.hosts):
        raise ConfigurationError(
            f"{len(programs)} ranks do not fit into network '{network.name}', which has {len(network.hosts)} hosts"
        )
    return _World(name, programs, network, cost).run()


class _Step:
    """A step of a program, its messages by number.

    Attributes:
        step: The step.
        needs: Messages that have to have come.
        recvs: What may come from then on.
        sends: What goes.
        ordered: The exchange on a channel that has to be over first, where channels work in order.
    """

    __slots__ = ("needs", "ordered", "recvs", "sends", "step")

    def __init__(self, step: Step, number: Callable[[Message], int]) -> None:
        self.step = step
        self.needs = [number(message) for message in step.needs]
        post = step if isinstance(step, Post) else None
        self.recvs = [] if post is None else [number(message) for message in post.recvs]
        self.sends = [] if post is None else [number(message) for message in post.sends]
        self.ordered = "" if post is None else post.ordered


class _Rank:
    """Where a rank is in its program."""

    __slots__ = ("at", "began", "busy", "free", "steps")

    def __init__(self, steps: list[_Step]) -> None:
        self.steps = steps
        self.at = 0
        self.busy = False  # with the step that it is at
        self.began = 0.0
        self.free = 0.0  # when it had nothing to do, from where it waits


_EXPECTED, _HANDED, _STARTED, _GONE, _ARRIVED = (1 << bit for bit in range(5))
"""What has become of a message; numbers, as enum's flags take longer to combine than all else takes."""


class _World:
    def __init__(self, name: str, programs: Sequence[Sequence[Step]], network: Network, cost: Cost) -> None:
        self.name, self.cost = name, cost
        self.now = 0.0
        self.numbers: dict[Message, int] = {}
        self.ranks = [
            _Rank([_Step(step, self._number) for step in (*_late(rank, cost), *steps)])
            for rank, steps in enumerate(programs)
        ]
        self.messages = list(self.numbers)
        self.states = [0] * len(self.messages)
        self.left = np.full(len(self.ranks), np.inf)  # seconds of the step that a rank is busy with
        self.look = set(range(len(self.ranks)))  # ranks for which something has changed
        self.connections: dict[tuple[int, int, str], deque[int]] = defaultdict(deque)  # in order, the first moves
        self.under_way: dict[tuple[int, str], int] = defaultdict(int)  # transfers of a rank on a channel, both ways
        self.traffic = Traffic(network, cost)
        self.landing: list[tuple[float, int, float]] = []  # a heap: their last byte has left; they arrive then
        self.spans: list[Span] = []

    def _number(self, message: Message) -> int:
        return self.numbers.setdefault(message, len(self.numbers))

    def run(self) -> Simulation:
        while True:
            while self.look:
                for number in sorted(self.look):
                    self._go_on(number)
            if all(rank.at == len(rank.steps) for rank in self.ranks):
                break
            self._advance()
        timeline = Timeline(self.name, len(self.ranks), tuple(self.spans))
        length = timeline.makespan or 1.0
        busy = {wire: seconds / length for wire, seconds in self.traffic.link_busy.items()}
        sends = [[self.messages[index] for step in rank.steps for index in step.sends] for rank in self.ranks]
        sent = tuple(sum(message.size for message in sends_of_one) for sends_of_one in sends)
        return Simulation(timeline, sent, tuple(map(len, sends)), self.traffic.link_bytes, busy)

    # -- ranks ---------------------------------------------------------------------------------------------------

    def _go_on(self, number: int) -> None:
        """Let a rank end what is over, and begin what it can."""
        self.look.discard(number)
        rank = self.ranks[number]
        if not rank.busy and rank.at < len(rank.steps) and self._ready(number, rank.steps[rank.at]):
            if self.now > rank.free:
                awaited = _awaited(rank.steps[rank.at].step)
                self.spans.append(Span(number, Activity.WAIT, rank.free, self.now, awaited))
            rank.busy, rank.began = True, self.now
            self.left[number] = rank.steps[rank.at].step.seconds
        if rank.busy and self.left[number] <= 0.0:
            self._end(number, rank)
            self.look.add(number)

    def _ready(self, number: int, step: _Step) -> bool:
        if not all(self.states[message] & _ARRIVED for message in step.needs):
            return False
        return not (step.ordered and self.under_way[number, step.ordered])

    def _end(self, number: int, rank: _Rank) -> None:
        rank.busy, rank.free = False, self.now
        self.left[number] = np.inf
        step = rank.steps[rank.at]
        rank.at += 1
        if isinstance(step.step, Work):
            if step.step.activity is not Activity.WAIT:
                self.spans.append(Span(number, step.step.activity, rank.began, self.now, step.step.what))
            return
        for index in step.recvs:
            self.states[index] |= _EXPECTED
            self.under_way[number, self.messages[index].channel] += 1
            self._start(self.messages[index])
        for index in step.sends:
            message = self.messages[index]
            self.states[index] |= _HANDED
            self.connections[message.source, message.target, message.channel].append(index)
            self.under_way[number, message.channel] += 1
            self._start(message)

    def _start(self, message: Message) -> None:
        """Start the first message of a connection, once both sides have posted it."""
        queue = self.connections[message.source, message.target, message.channel]
        if not queue or self.states[queue[0]] != _EXPECTED | _HANDED:
            return
        first = self.messages[queue[0]]
        if first.second and not self.states[self.numbers[first.back]] & _GONE:
            return
        self.states[queue[0]] |= _STARTED
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
            _, index, since = heappop(self.landing)
            self._arrive(index, since)

    def _speed(self) -> float:
        """How fast each rank computes: fully, or its share of cores that ranks and wires use together."""
        if self.cost.cores is None:
            return 1.0
        working = int(np.isfinite(self.left).sum())
        if not working:
            return 1.0
        return min(1.0, max(self.cost.cores - self.traffic.work, _WORST_SHARE * self.cost.cores) / working)

    def _leave(self, message: Message, since: float) -> None:
        """Its last byte has left; what waited for that starts."""
        index = self.numbers[message]
        self.states[index] |= _GONE
        self.connections[message.source, message.target, message.channel].popleft()
        self.under_way[message.source, message.channel] -= 1
        self.look.add(message.source)
        heappush(self.landing, (self.now + self.traffic.delay(message) + self.cost.latency, index, since))
        self._start(message)  # what stands behind it
        if self.cost.turns_in_all_to_all:
            self._start(message.back)  # what lets it go first

    def _arrive(self, index: int, since: float) -> None:
        message = self.messages[index]
        self.states[index] |= _ARRIVED
        self.under_way[message.target, message.channel] -= 1
        self.look.add(message.target)
        for rank, activity, peer in (
            (message.source, Activity.SEND, message.target),
            (message.target, Activity.RECEIVE, message.source),
        ):
            self.spans.append(Span(rank, activity, since, self.now, message.what, message.channel, peer, message.size))


def _awaited(step: Step) -> str:
    return ", ".join(dict.fromkeys(message.what for message in step.needs)) or "a channel"


def _late(rank: int, cost: Cost) -> tuple[Step, ...]:
    """What a rank does before it begins: nothing, for a time that differs from those of its neighbours."""
    if not cost.skew:
        return ()
    return (Work(Activity.WAIT, (), cost.skew * (rank * _GOLDEN_RATIO % 1), "a late start"),)
