"""The plan as data: blocks, actions, and one program per rank.

Rank ``r`` owns ``Q[r]`` and ``KV[r]``. A partial result ``O[q, at]`` is the output of query block
``q``, with its log-sum-exp, over the keys it has attended at rank ``at``; it comes into being at ``at`` by
attending there, and ``O[q, q]`` is the result itself. A block may be narrowed to a piece of its
tokens or of its heads, so that a builder can cut blocks finer or send half the heads each way round.

Nothing here moves or computes anything. :func:`tokenring_xdit.schedule.verify` proves a plan,
:mod:`tokenring_xdit.attention` runs it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Any

__all__ = [
    "WHOLE",
    "Action",
    "Attend",
    "Block",
    "Channel",
    "Exchange",
    "Kind",
    "Mask",
    "Merge",
    "Piece",
    "Program",
    "Schedule",
    "Transfer",
    "cut",
    "kv_block",
    "o_block",
    "q_block",
]


class Kind(Enum):
    """What a block holds."""

    Q = "Q"
    KV = "KV"
    O = "O"  # noqa: E741 - the letter the papers use

    @property
    def messages(self) -> int:
        """How many messages carry a block: keys and values are two, an output and its log-sum-exp are one."""
        return 2 if self is Kind.KV else 1


class Channel(Enum):
    """A path of its own for one direction of traffic.

    Each channel is a separate process group when run, hence a separate communicator and stream, so
    that what goes one way does not queue behind what comes back.
    """

    Q = "q"
    KV = "kv"
    O = "o"  # noqa: E741
    NODES = "nodes"
    """Keys and values between nodes, whose slower links would hold up what shares their channel."""


class Mask(Enum):
    """Which keys a query block may see: in an :class:`Attend` of one pair, in a plan of all pairs."""

    FULL = "full"
    CAUSAL = "causal"

    def asks(self, q_owner: int, kv_owner: int) -> bool:
        """Whether a plan with this mask lets the queries of one rank attend the keys of another."""
        return self is Mask.FULL or kv_owner <= q_owner

    def of_pair(self, q_owner: int, kv_owner: int) -> Mask:
        """The mask inside one pair that is asked for: a plan's own on the diagonal, full elsewhere."""
        return self if q_owner == kv_owner else Mask.FULL


@dataclass(frozen=True, order=True)
class Piece:
    """Piece ``index`` of ``count`` nearly equal pieces of an axis."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"piece {self.index} of {self.count} does not exist")

    def bounds(self, length: int) -> tuple[int, int]:
        """Start and stop of this piece on an axis of ``length`` elements."""
        return length * self.index // self.count, length * (self.index + 1) // self.count

    def covers(self, other: Piece) -> bool:
        """Whether ``other`` lies inside this piece, whatever the length of the axis."""
        return (
            self.index * other.count <= other.index * self.count
            and (other.index + 1) * self.count <= (self.index + 1) * other.count
        )

    def __str__(self) -> str:
        return "" if self.count == 1 else f"{self.index + 1}/{self.count}"


WHOLE = Piece()


def cut(count: int) -> tuple[Piece, ...]:
    """All pieces of an axis that is cut in ``count``."""
    return tuple(Piece(index, count) for index in range(count))


@dataclass(frozen=True)
class Block:
    """A block of queries, of keys and values, or of partial output.

    Attributes:
        kind: What it holds.
        owner: Rank whose tokens these are.
        at: For partial output, the rank where the keys were attended; ``None`` otherwise.
        tokens: Which of the owner's tokens.
        heads: Which heads.
    """

    kind: Kind
    owner: int
    at: int | None = None
    tokens: Piece = WHOLE
    heads: Piece = WHOLE

    def __post_init__(self) -> None:
        if (self.at is not None) != (self.kind is Kind.O):
            raise ValueError(f"only a partial output has a place where it was computed: {self}")

    @property
    def share(self) -> Fraction:
        """How much of the owner's whole block this is."""
        return Fraction(1, self.tokens.count * self.heads.count)

    def covers(self, other: Block) -> bool:
        """Whether ``other`` is this block or a piece of it."""
        same = (self.kind, self.owner, self.at) == (other.kind, other.owner, other.at)
        return same and self.tokens.covers(other.tokens) and self.heads.covers(other.heads)

    def __str__(self) -> str:
        place = f"{self.owner}" if self.at is None else f"{self.owner},{self.at}"
        piece = "".join(f" {axis} {p}" for axis, p in (("tokens", self.tokens), ("heads", self.heads)) if str(p))
        return f"{self.kind.value}[{place}]{piece}"


def q_block(owner: int, *, tokens: Piece = WHOLE, heads: Piece = WHOLE) -> Block:
    """The queries of ``owner``."""
    return Block(Kind.Q, owner, tokens=tokens, heads=heads)


def kv_block(owner: int, *, tokens: Piece = WHOLE, heads: Piece = WHOLE) -> Block:
    """The keys and values of ``owner``."""
    return Block(Kind.KV, owner, tokens=tokens, heads=heads)


def o_block(owner: int, at: int, *, tokens: Piece = WHOLE, heads: Piece = WHOLE) -> Block:
    """The partial output of ``owner``'s queries over the keys attended at rank ``at``."""
    return Block(Kind.O, owner, at, tokens=tokens, heads=heads)


@dataclass(frozen=True)
class Transfer:
    """One block to, or from, ``peer``."""

    block: Block
    peer: int


@dataclass(frozen=True)
class Exchange:
    """Transfers posted together, receives first, without waiting for any of them."""

    channel: Channel
    recvs: tuple[Transfer, ...] = ()
    sends: tuple[Transfer, ...] = ()


@dataclass(frozen=True)
class Attend:
    """Let ``q`` attend ``kv``; the result folds into ``O[q, this rank]``.

    The executor waits for the exchanges that bring the two blocks, and for nothing else.
    """

    q: Block
    kv: Block
    mask: Mask = Mask.FULL

    @property
    def narrowed(self) -> tuple[Block, Block]:
        """The queries and the keys, the wider of both cut to the heads of the narrower."""
        if self.q.heads == self.kv.heads:
            return self.q, self.kv
        return replace(self.q, heads=self._heads), replace(self.kv, heads=self._heads)

    @property
    def _heads(self) -> Piece:
        return _narrower(self.q.heads, self.kv.heads)

    def partial(self, rank: int) -> Block:
        """The partial output this builds on when executed by ``rank``."""
        return Block(Kind.O, self.q.owner, rank, self.q.tokens, self._heads)

    def __str__(self) -> str:
        return f"{self.q} to {self.kv}"


@dataclass(frozen=True)
class Merge:
    """Fold a partial output that came home into its owner's result."""

    partial: Block


Action = Exchange | Attend | Merge
Program = tuple[Action, ...]


@dataclass(frozen=True)
class Schedule:
    """One program per rank.

    Attributes:
        name: Name of the algorithm, with its options.
        world_size: Number of ranks.
        programs: Program of each rank, in rank order.
        mask: Which pairs of query and key blocks are asked for.
        wide: How many kernel calls, or merges, may become one. One call has the fewest launches, one a block the most
            overlap.
    """

    name: str
    world_size: int
    programs: tuple[Program, ...]
    mask: Mask = Mask.FULL
    wide: int = 1

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """Channels that carry anything, in a fixed order that is the same on all ranks."""
        used = {action.channel for p in self.programs for action in p if isinstance(action, Exchange)}
        return tuple(channel for channel in Channel if channel in used)

    @property
    def overlaps(self) -> bool:
        """Whether anything is computed while messages are on their way; not in the widest form."""
        return not self.wide >= self.world_size > 1

    @property
    def needs(self) -> tuple[tuple[Channel, bool], ...]:
        """:attr:`channels`, each with whether nothing is computed beside what it carries."""
        return tuple((channel, not self.overlaps) for channel in self.channels)

    def blocks(self) -> frozenset[Block]:
        """Every block that an action names."""
        found: set[Block] = set()
        for action in (a for program in self.programs for a in program):
            if isinstance(action, Exchange):
                found.update(t.block for t in (*action.recvs, *action.sends))
            else:
                found.update((action.q, action.kv) if isinstance(action, Attend) else (action.partial,))
        return frozenset(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dictionaries, ready for JSON."""

        def transfer(t: Transfer) -> dict[str, Any]:
            return {"block": block(t.block), "peer": t.peer}

        def block(b: Block) -> dict[str, Any]:
            entry: dict[str, Any] = {"kind": b.kind.value, "owner": b.owner}
            if b.at is not None:
                entry["at"] = b.at
            for axis, piece in (("tokens", b.tokens), ("heads", b.heads)):
                if piece != WHOLE:
                    entry[axis] = asdict(piece)
            return entry

        def action(a: Action) -> dict[str, Any]:
            if isinstance(a, Exchange):
                return {
                    "action": "exchange",
                    "channel": a.channel.value,
                    "recvs": [transfer(t) for t in a.recvs],
                    "sends": [transfer(t) for t in a.sends],
                }
            if isinstance(a, Attend):
                return {"action": "attend", "q": block(a.q), "kv": block(a.kv), "mask": a.mask.value}
            return {"action": "merge", "partial": block(a.partial)}

        return {
            "name": self.name,
            "world_size": self.world_size,
            "mask": self.mask.value,
            "programs": [[action(a) for a in program] for program in self.programs],
        }


def _narrower(first: Piece, second: Piece) -> Piece:
    """The piece that both name; one has to contain the other."""
    if first.covers(second):
        return second
    if second.covers(first):
        return first
    raise ValueError(f"head pieces {first} and {second} do not overlap as one piece")
