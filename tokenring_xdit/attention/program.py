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
    Attend,
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
from tokenring_xdit.schedule.foresight import last_uses, next_receives

__all__ = ["OWN_KV", "OWN_Q", "Fold", "Meet", "Place", "Post", "Prepared", "Receive", "Send", "prepare"]

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


class Meet(NamedTuple):
    """Attention of a block of queries over a block of keys.

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


class Prepared(NamedTuple):
    """A rank's program.

    Attributes:
        steps: Each with the index of its action, and the places that nothing needs any more after it.
        places: How many places there are.
        guest_shapes: Shape of each partial output that is built for another rank, ``[B, H, S, D]``.
    """

    steps: tuple[tuple[int, Post | Meet | Fold, tuple[int, ...]], ...]
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
        program = verified.schedule.programs[rank]
        expiring = last_uses(program)
        early = next_receives(program) if receives_early else {}
        steps: list[tuple[int, Post | Meet | Fold, tuple[int, ...]]] = []
        over: tuple[int, ...] = ()
        for index, action in enumerate(program):
            made: list[Post | Meet | Fold] = []
            if isinstance(action, Exchange):
                self._exchanges.update((t.block, index) for t in action.recvs)
                made += self._post(action.channel, action.recvs, action.sends)
                for later in early.get(index, ()):
                    made += self._post(later.channel, later.recvs, ())
            elif isinstance(action, Attend):
                made += self._meet(action)
            else:
                made += self._fold(action)
            steps += [(index, step, ()) for step in made]
            over += tuple(self._places[block] for block in expiring.get(index, ()) if block in self._places)
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

    def _meet(self, action: Attend) -> Iterator[Meet]:
        q, kv = action.q, action.kv
        if not (self._exists(q) and self._exists(kv)):
            return
        # The wider of the two is cut to the heads of the narrower.
        if q.heads.covers(kv.heads):
            narrow_q, narrow_kv = q_block(q.owner, tokens=q.tokens, heads=kv.heads), kv
        else:
            narrow_q, narrow_kv = q, kv_block(kv.owner, tokens=kv.tokens, heads=q.heads)
        partial = action.partial(self._rank)
        own = partial.owner == self._rank
        yield Meet(
            self._place(narrow_q),
            self._place(narrow_kv),
            action.mask is Mask.CAUSAL,
            self._messages.slices(narrow_kv)[0],
            None if own else self._guest(partial),
            self._part(partial) if own else None,
            f"{q} to {kv}",
        )

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
