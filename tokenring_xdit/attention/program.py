"""A rank's program for shapes that the ranks agreed on, made once: what every call of these shapes would look up.

Blocks become numbers of places, their pieces become slices, partial outputs get the layout of their message. Empty
blocks are left out on all sides: every rank knows all lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import torch

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.attention.messages import Messages, PartialForm
from tokenring_xdit.schedule import (
    Block,
    Channel,
    Exchange,
    Kind,
    Mask,
    Merge,
    Transfer,
    VerifiedSchedule,
    kv_block,
    q_block,
)
from tokenring_xdit.schedule.foresight import Meeting, last_uses, meetings, next_receives

__all__ = ["OWN_KV", "OWN_Q", "Fold", "Join", "Meet", "Place", "Post", "Prepared", "Receive", "Send", "prepare"]

OWN_Q, OWN_KV = 0, 1
"""Places of this rank's own queries, and of its keys and values."""


class Place(NamedTuple):
    """Where the tensors of a block of queries, or of keys and values, are found.

    Attributes:
        number: Of the place.
        cut: Which part of the tensors there; ``None`` for all of it.
    """

    number: int
    cut: tuple[slice, slice, slice] | None


class Receive(NamedTuple):
    """A block that comes.

    Attributes:
        block: The block.
        peer: Who sends it.
        place: Where it goes.
        messages: Shape and dtype of each of its messages.
    """

    block: Block
    peer: int
    place: int
    messages: tuple[tuple[tuple[int, ...], torch.dtype], ...]

    def __str__(self) -> str:
        return f"the arrival of {self.block}"


class Send(NamedTuple):
    """A block that goes.

    Attributes:
        block: The block.
        peer: Who gets it.
        payload: Index of its tensors in :attr:`Post.payloads`: several peers may get the same.
    """

    block: Block
    peer: int
    payload: int


class Packed(NamedTuple):
    """A partial output of another rank's queries, to be packed into a message.

    Attributes:
        guest: Number of the partial output.
        form: How it travels.
    """

    guest: int
    form: PartialForm


class Post(NamedTuple):
    """Transfers that are posted together.

    Attributes:
        channel: The channel.
        receives: What comes.
        payloads: What goes, each once.
        sends: Who gets what.
    """

    channel: Channel
    receives: tuple[Receive, ...]
    payloads: tuple[Place | Packed, ...]
    sends: tuple[Send, ...]

    def __str__(self) -> str:
        return f"an exchange on channel {self.channel.value}"


class Join(NamedTuple):
    """Keys and values of several blocks put one behind the other, as several blocks of queries meet them all.

    Attributes:
        parts: The blocks.
        place: Where they go.
        shape: Of all of them, ``[B, H, S, D]``.
        what: The blocks, in words.
    """

    parts: tuple[Place, ...]
    place: int
    shape: tuple[int, int, int, int]
    what: str


class Meet(NamedTuple):
    """Attention of a block of queries over a block of keys, or several that have been joined.

    Attributes:
        q: The queries.
        kv: The keys and values.
        causal: Whether a query sees the keys up to its own position only.
        kv_heads: Heads of the keys, for keys that are kept in another form.
        guest: Number of the partial output that it goes to; ``None`` for this rank's result.
        part: Which heads and tokens of the result; ``None`` for all, and for a guest.
        what: The blocks, in words.
    """

    q: Place
    kv: Place
    causal: bool
    kv_heads: slice
    guest: int | None
    part: tuple[slice, slice] | None
    what: str


class Fold(NamedTuple):
    """A partial output that came home, folded into the result.

    Attributes:
        place: Where it arrived.
        form: How it travelled.
        part: Which heads and tokens of the result; ``None`` for all.
        exchange: Index of the action that brought it.
        what: The block, in words.
    """

    place: int
    form: PartialForm
    part: tuple[slice, slice] | None
    exchange: int
    what: str


Step = Post | Join | Meet | Fold


class Prepared(NamedTuple):
    """A rank's program.

    Attributes:
        steps: Each with the index of its action, and the places that nothing needs any more after it.
        places: How many places there are.
        guest_shapes: Shape of each partial output that is built for another rank, ``[B, H, S, D]``.
    """

    steps: tuple[tuple[int, Step, tuple[int, ...]], ...]
    places: int
    guest_shapes: tuple[tuple[int, int, int, int], ...]


@lru_cache(maxsize=256)
def prepare(verified: VerifiedSchedule, layout: Layout, rank: int, receives_early: bool) -> Prepared:
    """Prepare a rank's program.

    Args:
        verified: The schedule.
        layout: What the ranks agreed on.
        rank: Which rank's.
        receives_early: Whether receives are posted before their turn.
    """
    return _Preparation(verified, layout, rank, receives_early).result


class _Preparation:
    def __init__(self, verified: VerifiedSchedule, layout: Layout, rank: int, receives_early: bool) -> None:
        self._rank = rank
        self._messages = Messages(layout)
        self._places: dict[Block, int] = {q_block(rank): OWN_Q, kv_block(rank): OWN_KV}
        self._numbers = count(len(self._places))
        self._exchanges: dict[Block, int] = {}  # of what was received, by index
        self._guests: dict[Block, int] = {}
        self._joined: dict[tuple[Block, ...], int] = {}
        program = verified.schedule.programs[rank]
        together = meetings(program)
        expiring = last_uses(program)
        early = next_receives(program) if receives_early else {}
        steps: list[tuple[int, Step, tuple[int, ...]]] = []
        over: tuple[int, ...] = ()
        for index, action in enumerate(program):
            made: list[Step] = []
            meeting = together.get(index)
            if isinstance(action, Exchange):
                self._exchanges.update((t.block, index) for t in action.recvs)
                made += self._post(action.channel, action.recvs, action.sends)
                for later in early.get(index, ()):
                    made += self._post(later.channel, later.recvs, ())
            elif isinstance(action, Merge):
                made += self._fold(action)
            elif meeting is not None:
                made += self._meet(meeting)
            steps += [(index, step, ()) for step in made]
            over += tuple(self._places[block] for block in expiring.get(index, ()) if block in self._places)
            if meeting is not None and meeting.last and meeting.keys in self._joined:
                over += (self._joined[meeting.keys],)
            if made or index == len(program) - 1:  # never earlier than the plan: what is over has come
                steps[-1:] = [(at, step, before + over) for at, step, before in steps[-1:]]
                over = ()
        shapes = tuple(self._messages.shape(block) for block in self._guests)
        self.result = Prepared(tuple(steps), next(self._numbers), shapes)

    def _post(self, channel: Channel, recvs: tuple[Transfer, ...], sends: tuple[Transfer, ...]) -> Iterator[Post]:
        receives = []
        for t in recvs:
            if t.block not in self._places and self._exists(t.block):  # others were posted early, or never come
                self._places[t.block] = next(self._numbers)
                messages = self._messages.payload(t.block)
                receives.append(Receive(t.block, t.peer, self._places[t.block], messages))
        going = [t for t in sends if self._exists(t.block)]
        blocks = list(dict.fromkeys(t.block for t in going))
        if receives or going:
            yield Post(
                channel,
                tuple(receives),
                tuple(self._packed(b) if b.kind is Kind.O else self._place(b) for b in blocks),
                tuple(Send(t.block, t.peer, blocks.index(t.block)) for t in going),
            )

    def _meet(self, meeting: Meeting) -> Iterator[Join | Meet]:
        action = meeting.attends[0]
        q = action.narrowed[0]
        met = [attend for attend in meeting.attends if self._exists(attend.narrowed[1])]
        keys = tuple(attend.narrowed[1] for attend in met)
        if not (self._exists(q) and keys):
            return
        if len(keys) > 1 and meeting.keys not in self._joined:
            yield self._join(meeting, keys)
        kv = Place(self._joined[meeting.keys], None) if len(keys) > 1 else self._place(keys[0])
        partial = action.partial(self._rank)
        own = partial.owner == self._rank
        yield Meet(
            self._place(q),
            kv,
            action.mask is Mask.CAUSAL,
            self._messages.slices(keys[0])[0],
            None if own else self._guest(partial),
            self._part(partial) if own else None,
            f"{action.q} to {', '.join(str(attend.kv) for attend in met)}",
        )

    def _join(self, meeting: Meeting, keys: tuple[Block, ...]) -> Join:
        place = self._joined[meeting.keys] = next(self._numbers)
        shapes = [self._messages.shape(block) for block in keys]
        (batch, heads, _, head_dim), length = shapes[0], sum(tokens for _, _, tokens, _ in shapes)
        what = ", ".join(map(str, keys))
        return Join(tuple(self._place(block) for block in keys), place, (batch, heads, length, head_dim), what)

    def _fold(self, action: Merge) -> Iterator[Fold]:
        block = action.partial
        if self._exists(block):
            form, part = self._messages.partial(block), self._part(block)
            yield Fold(self._places[block], form, part, self._exchanges[block], str(block))

    def _exists(self, block: Block) -> bool:
        return all(self._messages.shape(block))

    def _place(self, block: Block) -> Place:
        held = block if block in self._places else next(held for held in self._places if held.covers(block))
        return Place(self._places[held], self._messages.cut(held, block))

    def _packed(self, block: Block) -> Packed:
        return Packed(self._guest(block), self._messages.partial(block))

    def _guest(self, partial: Block) -> int:
        return self._guests.setdefault(partial, len(self._guests))

    def _part(self, partial: Block) -> tuple[slice, slice] | None:
        cut = self._messages.cut(q_block(self._rank), partial)
        return None if cut is None else cut[1:]
