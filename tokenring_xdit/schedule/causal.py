"""A plan under a causal mask: what no query may see is not attended, and what nobody needs does not travel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from tokenring_xdit.schedule.plan import (
    Action,
    Attend,
    Block,
    Exchange,
    Kind,
    Mask,
    Program,
    Schedule,
    Transfer,
    kv_block,
    q_block,
)

__all__ = ["causal"]


def causal(schedule: Schedule) -> Schedule:
    """Leave out of a plan for all pairs those of a query block and a later key block.

    With them go partial outputs that would be empty, and transfers of blocks that neither their
    receiver nor anyone after it attends. A rank's own pair is attended whole, by the first action that attended
    a part of it, or at the end where none did.

    Args:
        schedule: A plan with the full mask.
    """
    attended = [tuple(_attended(rank, program)) for rank, program in enumerate(schedule.programs)]
    needed = _Needed(attended)
    programs = tuple(tuple(_kept(rank, program, needed)) for rank, program in enumerate(attended))
    return replace(schedule, programs=programs, mask=Mask.CAUSAL)


def _attended(rank: int, program: Program) -> Iterator[Action]:
    """The program with the pairs that the mask asks for."""
    own = Attend(q_block(rank), kv_block(rank), Mask.CAUSAL)
    attended = False
    for action in program:
        if not isinstance(action, Attend) or action.kv.owner < action.q.owner:
            yield action
        elif action.q.owner == action.kv.owner and not attended:
            attended = True
            yield own
    if not attended:  # the full plan had it attended by other ranks
        yield own


class _Needed:
    """Which blocks are still of use where they are received."""

    def __init__(self, programs: list[Program]) -> None:
        self._partials: set[tuple[int, Block]] = set()
        self._attended: dict[tuple[int, Kind, int], list[Block]] = defaultdict(list)
        self._sent: dict[tuple[int, Kind, int], list[Transfer]] = defaultdict(list)
        for rank, program in enumerate(programs):
            for action in program:
                if isinstance(action, Attend):
                    self._partials.add((rank, action.partial(rank)))
                    for block in (action.q, action.kv):
                        self._attended[rank, block.kind, block.owner].append(block)
                elif isinstance(action, Exchange):
                    for t in action.sends:
                        self._sent[rank, t.block.kind, t.block.owner].append(t)
        self.at = cache(self._at)

    def partial(self, block: Block) -> bool:
        """Whether a partial output was built on any keys."""
        return (block.at, block) in self._partials

    def _at(self, rank: int, block: Block) -> bool:
        """Whether queries or keys are attended at ``rank``, or at a rank that gets them from there."""
        if block.kind is Kind.O:
            return self.partial(block)
        place = rank, block.kind, block.owner
        return any(block.covers(other) for other in self._attended[place]) or any(
            block.covers(t.block) and self.at(t.peer, t.block) for t in self._sent[place]
        )


def _kept(rank: int, program: Program, needed: _Needed) -> Iterator[Action]:
    for action in program:
        if isinstance(action, Exchange):
            recvs = tuple(t for t in action.recvs if needed.at(rank, t.block))
            sends = tuple(t for t in action.sends if needed.at(t.peer, t.block))
            if recvs or sends:
                yield replace(action, recvs=recvs, sends=sends)
        elif isinstance(action, Attend) or needed.partial(action.partial):
            yield action
