"""The proof of a plan: replay all ranks symbolically, refuse what could compute wrongly or hang.

What holds of a :class:`VerifiedSchedule`:

* every pair of query and key block that the mask asks for is attended exactly once;
* nothing is sent before it is held, and each partial output returns exactly once, to its owner;
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
    Schedule,
    kv_block,
)
from tokenring_xdit.schedule.replay import Replay, Spot

__all__ = ["VerifiedSchedule", "verify"]

_Route = tuple[int, int, Channel]  # source, destination, channel


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
        Replay(self.schedule, partners).run()

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


def _match_messages(schedule: Schedule) -> dict[Spot, set[Spot]]:
    """Pair sends with receives, in order per route.

    Returns:
        For each exchange, the exchanges of other ranks that it takes part in a transfer with.
    """
    sends: dict[_Route, list[tuple[Spot, Block]]] = defaultdict(list)
    recvs: dict[_Route, list[tuple[Spot, Block]]] = defaultdict(list)
    for rank, index, exchange in _exchanges(schedule):
        for t in exchange.sends:
            sends[rank, t.peer, exchange.channel].append(((rank, index), t.block))
        for t in exchange.recvs:
            recvs[t.peer, rank, exchange.channel].append(((rank, index), t.block))
    partners: dict[Spot, set[Spot]] = defaultdict(set)
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
