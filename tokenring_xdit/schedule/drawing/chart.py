"""The steps of a picture: which attention stands in which row, and which transfer travels meanwhile.

A rank's program has no clock. Here every attention takes one step, and a transfer the step in which both
of its sides have posted it; what it brings can be used from the next step on. Where all ranks attend alike these
are the steps of :func:`~tokenring_xdit.schedule.describe`; under a causal mask ranks stand still in some.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.program import KernelCall, Post, RankProgram, reads
from tokenring_xdit.schedule.plan import Attend, Block, Channel, Kind
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.schedule.verify import VerifiedSchedule

__all__ = ["AttendAt", "Chart", "Move", "chart"]

_Route = tuple[int, int, str]


@dataclass(frozen=True)
class AttendAt:
    """An attention: where, in which step, and of what."""

    rank: int
    step: int
    attend: Attend


@dataclass(frozen=True)
class Move:
    """A transfer: from where to where, in which step, and of what."""

    source: int
    destination: int
    channel: Channel
    step: int
    block: Block


@dataclass(frozen=True)
class Chart:
    """A whole schedule, laid out in steps.

    Attributes:
        steps: Number of steps, those after the last attention included.
        attends: Every attention of the schedule.
        moves: Every transfer of the schedule.
    """

    steps: int
    attends: tuple[AttendAt, ...]
    moves: tuple[Move, ...]


def chart(verified: VerifiedSchedule) -> Chart:
    """Lay a proved schedule out in steps, for shapes in which no piece of a block is empty."""
    blocks = verified.schedule.blocks()
    queries, keys = (
        math.lcm(*(block.tokens.count for block in blocks if (block.kind is Kind.KV) is of_keys))
        for of_keys in (False, True)
    )
    ranks = verified.schedule.world_size
    problem = Problem((queries,) * ranks, (keys,) * ranks, verified.head_cut, verified.head_cut, 1)
    return _Charting(lower(verified.schedule, problem, in_order=True)).run()


@dataclass
class _ChartedRank:
    """How far one rank has come."""

    program: RankProgram
    clock: int = 0
    position: int = 0


class _Charting:
    """Runs all programs side by side and keeps the step of everything."""

    def __init__(self, programs: tuple[RankProgram, ...]) -> None:
        self.ranks = [_ChartedRank(program) for program in programs]
        self.coming: dict[tuple[int, int], tuple[_Route, int]] = {}  # by rank and slot: which message of its route
        self.sent: dict[_Route, list[tuple[int, Block]]] = defaultdict(list)
        self.expected: dict[_Route, list[int]] = defaultdict(list)
        self.attends: list[AttendAt] = []

    def run(self) -> Chart:
        """Run to the end, which a proof has shown to exist."""
        while any(self._advance(rank) for rank in range(len(self.ranks))):
            pass
        moves = tuple(
            Move(source, destination, Channel(channel), max(posted, expected), block)
            for (source, destination, channel), sends in self.sent.items()
            for (posted, block), expected in zip(sends, self.expected[source, destination, channel], strict=True)
        )
        steps = 1 + max(entry.step for entries in (self.attends, moves) for entry in entries)
        return Chart(steps, tuple(self.attends), moves)

    def _advance(self, rank: int) -> bool:
        """Run one rank until it waits or ends; whether it got anywhere."""
        own = self.ranks[rank]
        start = own.position
        while own.position < len(own.program.steps):
            _, step = own.program.steps[own.position]
            found = [self._here(rank, slot) for slot in reads(step)]
            if None in found:
                break
            own.clock = max([own.clock, *(clock for clock in found if clock is not None)])
            if isinstance(step, Post):
                self._post(rank, step)
            elif isinstance(step, KernelCall):
                for attend in step.attends:
                    self.attends.append(AttendAt(rank, own.clock, attend))
                    own.clock += 1
            own.position += 1
        return own.position > start

    def _post(self, rank: int, post: Post) -> None:
        clock = self.ranks[rank].clock
        for recv in post.recvs:
            route = recv.peer, rank, recv.channel
            self.coming[rank, recv.slot] = route, len(self.expected[route])
            self.expected[route].append(clock)
        for send in post.sends:
            self.sent[rank, send.peer, send.channel].append((clock, send.block))

    def _here(self, rank: int, slot: int) -> int | None:
        """The first step in which a rank can use what a slot holds; ``None`` while nobody has sent it."""
        if (rank, slot) not in self.coming:
            return 0
        route, number = self.coming[rank, slot]
        if number >= len(self.sent[route]):
            return None
        return 1 + max(self.sent[route][number][0], self.expected[route][number])
