"""The proof of a plan: replay all ranks symbolically, refuse what could compute wrongly or hang.

What holds of a :class:`VerifiedSchedule`:

* every pair of query and key block that the mask asks for is attended exactly once;
* nothing is sent before it is held, and each partial output comes home exactly once, to its owner;
* sends and receives match one to one, in the same order for each source, destination and channel
  (NCCL and gloo both match in that order);
* no rank can wait for ever, even where every exchange is over before the rank's next one begins:
  stricter than NCCL, whose channels work off their exchanges in order, than gloo, and than an
  executor that waits for an old transfer before it uses its buffer again;
* what is received is used, and a partial output is sent and merged in the pieces it was built in.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule.plan import (
    WHOLE,
    Attend,
    Block,
    Channel,
    Exchange,
    Kind,
    Mask,
    Merge,
    Piece,
    Schedule,
    Transfer,
    kv_block,
    q_block,
)

__all__ = ["VerifiedSchedule", "verify"]

_Route = tuple[int, int, Channel]  # source, destination, channel
_Spot = tuple[int, int]  # rank, index of the action
_Origin = tuple[Kind, int]  # kind and owner of a block


@dataclass(frozen=True, eq=False)
class VerifiedSchedule:
    """A schedule that passed :func:`verify`: it cannot be made from one that does not.

    Compared and hashed by identity, so that what is derived from it can be cached cheaply.

    Raises:
        VerificationError: On construction, naming the rank and the action at fault.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        _check_addresses(self.schedule)
        partners = _match_messages(self.schedule)
        _Replay(self.schedule, partners).run()

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of every action, by which ranks tell plans of one name apart."""
        return hashlib.sha256(repr(self.schedule).encode()).hexdigest()[:12]

    @cached_property
    def head_cut(self) -> int:
        """What a number of heads has to be a multiple of."""
        return math.lcm(*(block.heads.count for block in self.schedule.blocks()))

    def takes_heads(self, heads: int, kv_heads: int) -> bool:
        """Whether pieces of heads hold the query heads that belong to their key heads.

        Args:
            heads: Query heads.
            kv_heads: Heads of keys and values.
        """
        return heads == kv_heads or (heads % self.head_cut == 0 and kv_heads % self.head_cut == 0)

    @cached_property
    def keys_stay_whole(self) -> bool:
        """Whether every rank attends its own keys and values only, and those in one piece."""
        attends = [
            (rank, action)
            for rank, program in enumerate(self.schedule.programs)
            for action in program
            if isinstance(action, Attend)
        ]
        return all(action.kv == kv_block(rank) for rank, action in attends)


def verify(schedule: Schedule) -> VerifiedSchedule:
    """Prove a schedule.

    Raises:
        VerificationError: Naming the rank and the action at fault.
    """
    return VerifiedSchedule(schedule)


def _exchanges(schedule: Schedule) -> Iterator[tuple[int, int, Exchange]]:
    for rank, program in enumerate(schedule.programs):
        for index, action in enumerate(program):
            if isinstance(action, Exchange):
                yield rank, index, action


def _check_addresses(schedule: Schedule) -> None:
    """Refuse ranks that do not exist and blocks of the wrong kind, before anything is replayed."""
    world = range(schedule.world_size)
    if len(schedule.programs) != schedule.world_size:
        problem = f"{len(schedule.programs)} programs for {schedule.world_size} ranks"
        raise VerificationError(schedule.name, min(len(schedule.programs), schedule.world_size), None, problem)
    for rank, program in enumerate(schedule.programs):
        for index, action in enumerate(program):
            if isinstance(action, Exchange):
                transfers = (*action.recvs, *action.sends)
                blocks = [t.block for t in transfers]
                for t in transfers:
                    if t.peer == rank or t.peer not in world:
                        raise VerificationError(
                            schedule.name, rank, index, f"exchanges {t.block} with rank {t.peer}, which is no peer"
                        )
            elif isinstance(action, Attend):
                blocks = [action.q, action.kv]
                if (action.q.kind, action.kv.kind) != (Kind.Q, Kind.KV):
                    raise VerificationError(schedule.name, rank, index, f"attends {action}")
                if action.mask is Mask.CAUSAL and not action.q.tokens == action.kv.tokens == WHOLE:
                    problem = f"attends {action} causally, which only whole blocks can be"
                    raise VerificationError(schedule.name, rank, index, problem)
                if not (action.q.heads.covers(action.kv.heads) or action.kv.heads.covers(action.q.heads)):
                    problem = f"attends {action}, whose heads are not pieces of each other"
                    raise VerificationError(schedule.name, rank, index, problem)
            else:
                blocks = [action.partial]
                if action.partial.kind is not Kind.O or action.partial.owner != rank:
                    raise VerificationError(
                        schedule.name, rank, index, f"merges {action.partial}, which is no partial of its own"
                    )
            for block in blocks:
                if block.owner not in world or (block.at is not None and block.at not in world):
                    raise VerificationError(schedule.name, rank, index, f"{block} belongs to no rank")


def _match_messages(schedule: Schedule) -> dict[_Spot, set[_Spot]]:
    """Pair sends with receives, in order per route.

    Returns:
        For each exchange, the exchanges of other ranks that it takes part in a transfer with.
    """
    sends: dict[_Route, list[tuple[_Spot, Block]]] = defaultdict(list)
    recvs: dict[_Route, list[tuple[_Spot, Block]]] = defaultdict(list)
    for rank, index, exchange in _exchanges(schedule):
        for t in exchange.sends:
            sends[rank, t.peer, exchange.channel].append(((rank, index), t.block))
        for t in exchange.recvs:
            recvs[t.peer, rank, exchange.channel].append(((rank, index), t.block))
    partners: dict[_Spot, set[_Spot]] = defaultdict(set)
    for route in sorted({*sends, *recvs}, key=lambda r: (r[0], r[1], r[2].value)):
        source, destination, channel = route
        for sent, expected in itertools.zip_longest(sends[route], recvs[route]):
            if expected is None:
                spot, block = sent
                problem = f"sends {block} to rank {destination}, which never receives it"
                raise VerificationError(schedule.name, spot[0], spot[1], problem)
            if sent is None:
                spot, block = expected
                problem = f"would wait for ever for {block}, which rank {source} never sends"
                raise VerificationError(schedule.name, spot[0], spot[1], problem)
            if sent[1] != expected[1]:
                problem = (
                    f"expects {expected[1]} from rank {source} on channel {channel.value}, where that rank's "
                    f"action {sent[0][1]} sends {sent[1]}: the order of the two sides differs"
                )
                raise VerificationError(schedule.name, expected[0][0], expected[0][1], problem)
            partners[sent[0]].add(expected[0])
            partners[expected[0]].add(sent[0])
    return partners


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

    def kv_atoms(self, block: Block) -> list[tuple[int, int]]:
        """(token, head) atoms of a key/value block."""
        return list(itertools.product(_span(block.tokens, self.kv), _span(block.heads, self.heads)))


def _span(piece: Piece, count: int) -> range:
    return range(*piece.bounds(count))


def _origin(block: Block) -> _Origin:
    return block.kind, block.owner


class _Replay:
    """Runs all programs side by side, with blocks as symbols."""

    def __init__(self, schedule: Schedule, partners: dict[_Spot, set[_Spot]]) -> None:
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
        self.unused: dict[tuple[int, Block], _Spot] = {}
        self.built: list[set[Block]] = [set() for _ in world]
        self.came_home: list[set[Block]] = [set() for _ in world]
        self.pending: dict[int, _Spot] = {}  # the exchange of each rank that is not over
        self.reached: set[_Spot] = set()
        # (owner, at, token atom, head atom) -> state, and the action that put it there
        self.partials: dict[tuple[int, int, int, int], tuple[_State, _Spot]] = {}
        # (q owner, q atom, kv owner, kv atom, head atom) -> where it was attended
        self.attended: dict[tuple[int, int, int, int, int], _Spot] = {}

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

    def _has(self, spot: _Spot, block: Block, verb: str) -> bool:
        """Whether queries or keys are here; ``False`` while they are on their way."""
        rank = spot[0]
        for held in self.held[rank][_origin(block)]:
            if held.covers(block):
                self.unused.pop((rank, held), None)
                return True
        if any(coming.covers(block) for coming in self.coming[rank][_origin(block)]):
            return False
        raise self._fail(spot, f"{verb} {block} before holding it")

    def _post(self, spot: _Spot, exchange: Exchange) -> bool:
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

    def _send_partial(self, spot: _Spot, transfer: Transfer) -> None:
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

    def _attend(self, spot: _Spot, action: Attend) -> bool:
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

    def _merge(self, spot: _Spot, action: Merge) -> bool:
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

    def _arrive(self, rank: int, spot: _Spot) -> None:
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
                self.partials[t.block.owner, t.block.at, *atom] = (_State.HOME, spot)

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
                    raise self._fail((q_owner, None), f"Q[{q_owner}] never meets all of KV[{kv_owner}]")
        for (owner, at, _, _), (state, spot) in self.partials.items():
            if owner == at or state is _State.MERGED:
                continue
            fate = "is computed but never sent home" if state is _State.BUILDING else "comes home but is never merged"
            raise self._fail(spot, f"O[{owner},{at}] {fate}: it is lost")
        for (_, block), spot in self.unused.items():
            raise self._fail(spot, f"receives {block}, which nothing uses")
