"""Runs programs on a network that is only described: a discrete-event simulation of ranks and wires.

Transfers are fluid: those that share a wire share its rate evenly, each as fast as its slowest wire lets it
(max-min fairness), both directions of a wire apart. Ranks compute at full speed, or share the cores of one machine.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.planning.cost import Cost
from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.planning.programs import Message, Post, Step, Work, of_schedule
from tokenring_xdit.schedule import Activity, Span, Timeline, VerifiedSchedule
from tokenring_xdit.topology import Network
from tokenring_xdit.topology.sharing import Direction, fair_shares

__all__ = ["Simulation", "run", "simulate"]

_SAME_TIME = 1e-9
"""Relative: events so close to each other are one, so that what ranks do alike is computed once."""

_WORST_SHARE = 0.1
"""Of shared cores that ranks keep, however much the wires ask of them."""


@dataclass(frozen=True)
class Simulation:
    """What came out.

    Attributes:
        timeline: What every rank did when.
        sent: Bytes that each rank sent.
        link_bytes: Bytes that each direction of a wire carried, by ``(from, to)``.
        link_busy: Share of the makespan for which it carried anything at all.
    """

    timeline: Timeline
    sent: tuple[int, ...]
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


class _Flow:
    """A message on its way."""

    __slots__ = ("left", "message", "rate", "start")

    def __init__(self, message: Message, start: float) -> None:
        self.message = message
        self.left = float(message.size)
        self.rate = 0.0
        self.start = start


class _Rank:
    """Where a rank is in its program."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.at = 0
        self.left: float | None = None  # seconds of the step that it is at; None: not begun
        self.began = 0.0
        self.free = 0.0  # when it had nothing to do, from where it waits


class _World:
    def __init__(self, name: str, programs: Sequence[Sequence[Step]], network: Network, cost: Cost) -> None:
        self.name, self.network, self.cost = name, network, cost
        self.now = 0.0
        self.ranks = [_Rank(steps) for steps in programs]
        self.arrived: set[Message] = set()
        self.expected: set[Message] = set()
        self.handed: set[Message] = set()
        self.gone: set[Message] = set()
        self.connections: dict[tuple[int, int, str], deque[Message]] = defaultdict(deque)  # in order, the first moves
        self.under_way: dict[tuple[int, str], int] = defaultdict(int)  # transfers of a rank on a channel, both ways
        self.flows: list[_Flow] = []
        self.landing: list[tuple[float, _Flow]] = []  # their last byte has left; they arrive then
        self.paths: dict[tuple[int, int], tuple[Direction, ...]] = {}
        self.delays: dict[tuple[int, int], float] = {}
        self.capacity: dict[Direction, float] = {}
        self.spans: list[Span] = []
        self.sent = [0] * len(programs)
        self.link_bytes: dict[Direction, float] = defaultdict(float)
        self.link_busy: dict[Direction, float] = defaultdict(float)
        self.moved = False  # whether the set of flows has changed since rates were computed

    def run(self) -> Simulation:
        while True:
            while self._begin():
                pass
            if all(rank.at == len(rank.steps) and rank.left is None for rank in self.ranks):
                break
            self._advance()
        timeline = Timeline(self.name, len(self.ranks), tuple(self.spans))
        length = timeline.makespan or 1.0
        busy = {wire: seconds / length for wire, seconds in self.link_busy.items()}
        return Simulation(timeline, tuple(self.sent), dict(self.link_bytes), busy)

    # -- ranks ---------------------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Let every rank begin what it can, and start transfers; whether anything happened at once."""
        again = False
        for number, rank in enumerate(self.ranks):
            if rank.left is None and rank.at < len(rank.steps) and self._ready(number, rank.steps[rank.at]):
                step = rank.steps[rank.at]
                if self.now > rank.free:
                    self.spans.append(Span(number, Activity.WAIT, rank.free, self.now, _awaited(step)))
                rank.left, rank.began = step.seconds, self.now
            if rank.left is not None and rank.left <= 0.0:
                self._end(number, rank)
                again = True
        return again

    def _ready(self, number: int, step: Step) -> bool:
        if not self.arrived.issuperset(step.needs):
            return False
        return not (isinstance(step, Post) and step.ordered and self.under_way[number, step.ordered])

    def _end(self, number: int, rank: _Rank) -> None:
        rank.left, rank.free = None, self.now
        step = rank.steps[rank.at]
        rank.at += 1
        if isinstance(step, Work):
            if step.activity is not Activity.WAIT:
                self.spans.append(Span(number, step.activity, rank.began, self.now, step.what))
            return
        for message in step.recvs:
            self.expected.add(message)
            self.under_way[number, message.channel] += 1
            self._start(message)
        for message in step.sends:
            self.handed.add(message)
            self.sent[number] += message.size
            self.connections[message.source, message.target, message.channel].append(message)
            self.under_way[number, message.channel] += 1
            self._start(message)

    def _start(self, message: Message) -> None:
        """Start the first message of a connection, once both sides have posted it."""
        queue = self.connections[message.source, message.target, message.channel]
        if not queue or (queue[0].second and queue[0].back not in self.gone):
            return
        if queue[0] in self.expected and queue[0] in self.handed:
            self.handed.discard(queue[0])
            self.flows.append(_Flow(queue[0], self.now))
            self.moved = True

    # -- time ----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go on to the next event."""
        if self.moved:
            self._share_wires()
            self.moved = False
        speed = self._speed()
        working = [rank for rank in self.ranks if rank.left is not None]
        waits = [rank.left / speed for rank in working if rank.left is not None]
        waits += [flow.left / flow.rate for flow in self.flows if flow.rate]
        waits += [time - self.now for time, _ in self.landing]
        if not waits:
            stuck = [number for number, rank in enumerate(self.ranks) if rank.at < len(rank.steps)]
            raise ScheduleError(f"'{self.name}': ranks {stuck} wait for what never comes")
        step = max(0.0, min(waits))
        end = self.now + step
        slack = step * _SAME_TIME + 1e-15
        for rank in working:
            assert rank.left is not None
            rank.left -= step * speed
            if rank.left <= slack:
                rank.left = 0.0
        gone = self._move(step, slack)
        self.now = end
        for flow in gone:
            self._start(flow.message)  # what stands behind it
            self._start(flow.message.back)  # what lets it go first
        landed = [entry for entry in self.landing if entry[0] <= end + slack]
        if landed:
            self.landing = [entry for entry in self.landing if entry[0] > end + slack]
            for _, flow in landed:
                self._arrive(flow)

    def _speed(self) -> float:
        """How fast each rank computes: fully, or its share of cores that ranks and wires use together."""
        if self.cost.cores is None:
            return 1.0
        working = sum(rank.left is not None for rank in self.ranks)
        if not working:
            return 1.0
        asked = self.cost.transfer_work * sum(flow.rate for flow in self.flows)
        return min(1.0, max(self.cost.cores - asked, _WORST_SHARE * self.cost.cores) / working)

    def _move(self, step: float, slack: float) -> list[_Flow]:
        """Carry every flow on; returns those whose last byte has left."""
        going: list[_Flow] = []
        gone: list[_Flow] = []
        carrying: set[Direction] = set()
        for flow in self.flows:
            path = self._path(flow.message)
            for wire in path:
                self.link_bytes[wire] += step * flow.rate
                carrying.add(wire)
            flow.left -= step * flow.rate
            (gone if flow.left <= flow.rate * slack + 1e-9 else going).append(flow)
        for wire in carrying:
            self.link_busy[wire] += step
        if gone:
            self.flows, self.moved = going, True
        for flow in gone:
            message = flow.message
            self.gone.add(message)
            self.connections[message.source, message.target, message.channel].popleft()
            self.under_way[message.source, message.channel] -= 1
            delay = self.delays[message.source, message.target] + self.cost.latency
            self.landing.append((self.now + step + delay, flow))
        return gone

    def _arrive(self, flow: _Flow) -> None:
        message = flow.message
        self.arrived.add(message)
        self.expected.discard(message)
        self.under_way[message.target, message.channel] -= 1
        details = (message.what, message.channel)
        self.spans.append(
            Span(message.source, Activity.SEND, flow.start, self.now, *details, message.target, message.size)
        )
        self.spans.append(
            Span(message.target, Activity.RECEIVE, flow.start, self.now, *details, message.source, message.size)
        )

    # -- wires ---------------------------------------------------------------------------------------------------

    def _path(self, message: Message) -> tuple[Direction, ...]:
        pair = message.source, message.target
        if pair not in self.paths:
            nodes = self.network.route(*(self.network.hosts[rank] for rank in pair))
            self.paths[pair] = tuple(pairwise(nodes))
            wires = [(self.network.wire(*ends), ends[0]) for ends in self.paths[pair]]
            self.delays[pair] = sum(wire.delay for wire, _ in wires)
            for (wire, source), ends in zip(wires, self.paths[pair], strict=True):
                self.capacity[ends] = wire.rate_from(source).bits_per_second / 8 * self.network.payload_share
        return self.paths[pair]

    def _share_wires(self) -> None:
        routes = [self._path(flow.message) for flow in self.flows]
        for flow, share in zip(self.flows, fair_shares(routes, self.capacity), strict=True):
            flow.rate = share.rate


def _awaited(step: Step) -> str:
    return ", ".join(dict.fromkeys(message.what for message in step.needs)) or "a channel"
