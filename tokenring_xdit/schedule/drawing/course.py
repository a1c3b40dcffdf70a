"""The steps of a picture: which attention stands in which row, and which transfer travels meanwhile.

A rank's program has no clock. Here every attention takes one step, and a transfer the step in which both
of its sides have posted it; what it brings can be used from the next step on. Where all ranks attend alike these
are the steps of :func:`~tokenring_xdit.schedule.describe`; under a causal mask ranks stand still in some.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tokenring_xdit.schedule.foresight import used_blocks
from tokenring_xdit.schedule.plan import Attend, Block, Channel, Exchange, Kind
from tokenring_xdit.schedule.verify import VerifiedSchedule

__all__ = ["Course", "Meeting", "Move", "course"]

_Route = tuple[int, int, Channel]
_Message = tuple[_Route, int]
"""The route, and which message on it this is: both sides name them in the same order."""


@dataclass(frozen=True)
class Meeting:
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
class Course:
    """A whole schedule, laid out in steps.

    Attributes:
        steps: Number of steps, those after the last attention included.
        meetings: Every attention of the schedule.
        moves: Every transfer of the schedule.
    """

    steps: int
    meetings: tuple[Meeting, ...]
    moves: tuple[Move, ...]


def course(verified: VerifiedSchedule) -> Course:
    """Lay a proved schedule out in steps."""
    return _Replay(verified).run()


@dataclass
class _Rank:
    """How far one rank has come."""

    clock: int = 0
    position: int = 0
    received: dict[tuple[Kind, int], list[tuple[Block, _Message]]] = field(default_factory=lambda: defaultdict(list))


class _Replay:
    """Runs all programs side by side and keeps the step of everything."""

    def __init__(self, verified: VerifiedSchedule) -> None:
        self.programs = verified.schedule.programs
        self.ranks = [_Rank() for _ in self.programs]
        self.sent: dict[_Route, list[tuple[int, Block]]] = defaultdict(list)
        self.expected: dict[_Route, list[int]] = defaultdict(list)
        self.meetings: list[Meeting] = []

    def run(self) -> Course:
        """Replay to the end, which a proof has shown to exist."""
        while any(self._advance(rank) for rank in range(len(self.ranks))):
            pass
        moves = tuple(
            Move(*route, max(posted, expected), block)
            for route, sends in self.sent.items()
            for (posted, block), expected in zip(sends, self.expected[route], strict=True)
        )
        steps = 1 + max(entry.step for entries in (self.meetings, moves) for entry in entries)
        return Course(steps, tuple(self.meetings), moves)

    def _advance(self, rank: int) -> bool:
        """Run one rank until it waits or ends; whether it got anywhere."""
        own, program = self.ranks[rank], self.programs[rank]
        start = own.position
        while own.position < len(program):
            action = program[own.position]
            steps = [self._here(rank, block) for block in used_blocks(action)]
            if None in steps:
                break
            own.clock = max([own.clock, *(step for step in steps if step is not None)])
            if isinstance(action, Exchange):
                self._post(rank, action)
            elif isinstance(action, Attend):
                self.meetings.append(Meeting(rank, own.clock, action))
                own.clock += 1
            own.position += 1
        return own.position > start

    def _post(self, rank: int, exchange: Exchange) -> None:
        own = self.ranks[rank]
        for t in exchange.recvs:
            route = t.peer, rank, exchange.channel
            own.received[t.block.kind, t.block.owner].append((t.block, (route, len(self.expected[route]))))
            self.expected[route].append(own.clock)
        for t in exchange.sends:
            self.sent[rank, t.peer, exchange.channel].append((own.clock, t.block))

    def _here(self, rank: int, block: Block) -> int | None:
        """The first step in which a rank can use a block; ``None`` while nobody has sent it."""
        if block.kind is not Kind.O and block.owner == rank:
            return 0
        received = self.ranks[rank].received[block.kind, block.owner]
        route, number = next(message for held, message in received if held.covers(block))
        if number >= len(self.sent[route]):
            return None
        return 1 + max(self.sent[route][number][0], self.expected[route][number])
