"""All ranks of a plan side by side, with blocks as symbols: the part of the proof that follows what is held where."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from enum import Enum, auto

from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule.plan import (
    Attend,
    Block,
    Exchange,
    Kind,
    Merge,
    Piece,
    Schedule,
    Transfer,
    kv_block,
    q_block,
)

__all__ = ["Replay", "Spot"]

Spot = tuple[int, int]
"""Rank, index of the action."""

_Origin = tuple[Kind, int]  # kind and owner of a block


class _State(Enum):
    """Life of one atom of a partial output."""

    BUILDING = auto()  # at the rank where the keys are, folding
    SENT = auto()
    HOME = auto()  # received by the owner, not merged yet
    MERGED = auto()


class _Grid:
    """Cuts every block into the finest pieces that the schedule names."""

    def __init__(self, schedule: Schedule) -> None:
        counts: dict[str, int] = {"q": 1, "kv": 1, "heads": 1}
        for block in schedule.blocks():
            axis = "kv" if block.kind is Kind.KV else "q"
            counts[axis] = math.lcm(counts[axis], block.tokens.count)
            counts["heads"] = math.lcm(counts["heads"], block.heads.count)
        self.q, self.kv, self.heads = counts["q"], counts["kv"], counts["heads"]

    def q_atoms(self, block: Block) -> list[tuple[int, int]]:
        """(token, head) atoms of a query block or a partial output."""
        return list(itertools.product(_span(block.tokens, self.q), _span(block.heads, self.heads)))


def _span(piece: Piece, count: int) -> range:
    return range(*piece.bounds(count))


def _origin(block: Block) -> _Origin:
    return block.kind, block.owner


class Replay:
    """Runs all programs side by side, with blocks as symbols."""

    def __init__(self, schedule: Schedule, partners: dict[Spot, set[Spot]]) -> None:
        self.schedule = schedule
        self.partners = partners
        self.grid = _Grid(schedule)
        world = range(schedule.world_size)
        self.position = [0 for _ in world]
        # by kind and owner, as plans cut in many pieces name many blocks
        self.held: list[dict[_Origin, set[Block]]] = [defaultdict(set) for _ in world]
        self.coming: list[dict[_Origin, set[Block]]] = [defaultdict(set) for _ in world]
        for rank in world:
            for block in (q_block(rank), kv_block(rank)):
                self.held[rank][_origin(block)].add(block)
        self.unused: dict[tuple[int, Block], Spot] = {}
        self.built: list[set[Block]] = [set() for _ in world]
        self.came_home: list[set[Block]] = [set() for _ in world]
        self.pending: dict[int, Spot] = {}  # the exchange of each rank that is not over
        self.reached: set[Spot] = set()
        # (owner, at, token atom, head atom) -> state, and the action that put it there
        self.partials: dict[tuple[int, int, int, int], tuple[_State, Spot]] = {}
        # (q owner, q atom, kv owner, kv atom, head atom) -> where it was attended
        self.attended: dict[tuple[int, int, int, int, int], Spot] = {}

    def run(self) -> None:
        """Replay to the end, then check that nothing is missing."""
        moved = True
        while moved:
            advanced = [self._advance(rank) for rank in range(self.schedule.world_size)]
            moved = any(advanced) or self._settle()
        self._refuse_waiting()
        self._refuse_missing()

    def _fail(self, spot: tuple[int, int | None], problem: str) -> VerificationError:
        return VerificationError(self.schedule.name, spot[0], spot[1], problem)

    def _advance(self, rank: int) -> bool:
        """Run one rank until it waits or ends; whether it got anywhere."""
        program, start = self.schedule.programs[rank], self.position[rank]
        while self.position[rank] < len(program):
            spot, action = (rank, self.position[rank]), program[self.position[rank]]
            if isinstance(action, Exchange):
                ready = self._post(spot, action)
            elif isinstance(action, Attend):
                ready = self._attend(spot, action)
            else:
                ready = self._merge(spot, action)
            if not ready:
                break
            self.position[rank] += 1
        return self.position[rank] > start

    def _has(self, spot: Spot, block: Block, verb: str) -> bool:
        """Whether queries or keys are here; ``False`` while they are on their way."""
        rank = spot[0]
        for held in self.held[rank][_origin(block)]:
            if held.covers(block):
                self.unused.pop((rank, held), None)
                return True
        if any(coming.covers(block) for coming in self.coming[rank][_origin(block)]):
            return False
        raise self._fail(spot, f"{verb} {block} before holding it")

    def _post(self, spot: Spot, exchange: Exchange) -> bool:
        rank = spot[0]
        if rank in self.pending or not all(
            self._has(spot, t.block, "sends") for t in exchange.sends if t.block.kind is not Kind.O
        ):
            return False
        for t in exchange.sends:
            if t.block.kind is Kind.O:
                self._send_partial(spot, t)
        for t in exchange.recvs:
            coming, held = self.coming[rank][_origin(t.block)], self.held[rank][_origin(t.block)]
            if t.block in coming or any(block.covers(t.block) for block in held):
                raise self._fail(spot, f"receives {t.block}, which it already has")
            if t.block.kind is Kind.O and t.block.owner != rank:
                raise self._fail(spot, f"receives {t.block}, which belongs to rank {t.block.owner}")
            coming.add(t.block)
        self.pending[rank] = spot
        self.reached.add(spot)
        return True

    def _send_partial(self, spot: Spot, transfer: Transfer) -> None:
        block, rank = transfer.block, spot[0]
        if transfer.peer != block.owner:
            raise self._fail(spot, f"sends {block} to rank {transfer.peer}, but its owner is rank {block.owner}")
        for atom in self.grid.q_atoms(block):
            key = (block.owner, rank, *atom)
            if block not in self.built[rank] or key not in self.partials:
                raise self._fail(spot, f"sends {block} before holding it")
            if self.partials[key][0] is not _State.BUILDING:
                raise self._fail(spot, f"sends {block} a second time")
            self.partials[key] = (_State.SENT, spot)

    def _attend(self, spot: Spot, action: Attend) -> bool:
        if not all(self._has(spot, block, "attends") for block in (action.q, action.kv)):
            return False
        rank, q, kv = spot[0], action.q, action.kv
        self.built[rank].add(action.partial(rank))
        if not self.schedule.mask.asks(q.owner, kv.owner) or action.mask is not self.schedule.mask.of_pair(
            q.owner, kv.owner
        ):
            problem = f"attends {action} with mask {action.mask.value}, which {self.schedule.mask.value} forbids"
            raise self._fail(spot, problem)
        shared_heads = set(_span(q.heads, self.grid.heads)) & set(_span(kv.heads, self.grid.heads))
        for (q_atom, head), kv_atom in itertools.product(self.grid.q_atoms(q), _span(kv.tokens, self.grid.kv)):
            if head not in shared_heads:
                continue
            pair = (q.owner, q_atom, kv.owner, kv_atom, head)
            if pair in self.attended:
                where = "rank {}, action {}".format(*self.attended[pair])
                raise self._fail(spot, f"attends {action} a second time, after {where}")
            self.attended[pair] = spot
            key = (q.owner, rank, q_atom, head)
            if self.partials.get(key, (_State.BUILDING,))[0] is not _State.BUILDING:
                raise self._fail(spot, f"attends {q} after its partial output was sent away")
            self.partials[key] = (_State.BUILDING, spot)
        return True

    def _merge(self, spot: Spot, action: Merge) -> bool:
        block, rank = action.partial, spot[0]
        assert block.at is not None
        if block in self.coming[rank][_origin(block)]:
            return False
        if block not in self.came_home[rank]:
            raise self._fail(spot, f"merges {block} before receiving it")
        for atom in self.grid.q_atoms(block):
            key = (block.owner, block.at, *atom)
            if self.partials[key][0] is _State.MERGED:
                raise self._fail(spot, f"merges {block} a second time")
            self.partials[key] = (_State.MERGED, spot)
        return True

    def _settle(self) -> bool:
        """Complete the exchanges that all sides have reached; whether there were any."""
        over = [(rank, spot) for rank, spot in self.pending.items() if self.partners[spot] <= self.reached]
        for rank, spot in over:
            del self.pending[rank]
            self._arrive(rank, spot)
        return bool(over)

    def _arrive(self, rank: int, spot: Spot) -> None:
        action = self.schedule.programs[rank][spot[1]]
        assert isinstance(action, Exchange)
        for t in action.recvs:
            self.coming[rank][_origin(t.block)].remove(t.block)
            if t.block.kind is not Kind.O:
                self.held[rank][_origin(t.block)].add(t.block)
                self.unused[rank, t.block] = spot
                continue
            self.came_home[rank].add(t.block)
            assert t.block.at is not None
            for atom in self.grid.q_atoms(t.block):
                of_pair = (t.block.owner, t.block.at, *atom)
                self.partials[of_pair] = (_State.HOME, spot)

    def _refuse_waiting(self) -> None:
        for rank, program in enumerate(self.schedule.programs):
            if self.position[rank] < len(program):
                others = [r for r in range(self.schedule.world_size) if r != rank and self._waits(r)]
                raise self._fail(
                    (rank, self.position[rank]),
                    "waits for ever for what it needs" + (f"; so do ranks {others}: a circular wait" if others else ""),
                )
        for spot in self.pending.values():
            raise self._fail(spot, "an exchange never completes")

    def _waits(self, rank: int) -> bool:
        return self.position[rank] < len(self.schedule.programs[rank])

    def _refuse_missing(self) -> None:
        world = range(self.schedule.world_size)
        for q_owner, kv_owner in itertools.product(world, world):
            if not self.schedule.mask.asks(q_owner, kv_owner):
                continue
            for q_atom, kv_atom, head in itertools.product(
                range(self.grid.q), range(self.grid.kv), range(self.grid.heads)
            ):
                if (q_owner, q_atom, kv_owner, kv_atom, head) not in self.attended:
                    raise self._fail((q_owner, None), f"Q[{q_owner}] never attends all of KV[{kv_owner}]")
        for (owner, at, _, _), (state, spot) in self.partials.items():
            if owner == at or state is _State.MERGED:
                continue
            fate = "is computed but never returned" if state is _State.BUILDING else "is returned but never merged"
            raise self._fail(spot, f"O[{owner},{at}] {fate}: it is lost")
        for (_, block), spot in self.unused.items():
            raise self._fail(spot, f"receives {block}, which nothing uses")
