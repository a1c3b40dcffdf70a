"""A rank's program while passes work on it: every slot is written once, and none is reused yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tokenring_xdit.schedule.lower.program import (
    OWN_KV,
    OWN_Q,
    RESULT,
    KernelCall,
    MergeCall,
    Pack,
    Partial,
    Post,
    Recv,
    Send,
    Slot,
    SlotForm,
    Step,
    Target,
    View,
)
from tokenring_xdit.schedule.plan import (
    Attend,
    Block,
    Exchange,
    Kind,
    Mask,
    Program,
    Transfer,
    kv_block,
    o_block,
    q_block,
)
from tokenring_xdit.schedule.problem import Problem, sum_size

__all__ = ["Draft", "Line", "resolve"]


class Line(NamedTuple):
    """A step of a draft.

    Attributes:
        action: Index of its action in the plan.
        step: What is done.
    """

    action: int
    step: Step


@dataclass(frozen=True)
class Draft:
    """A rank's program on its way to a :class:`~tokenring_xdit.schedule.lower.program.RankProgram`.

    Attributes:
        slots: One for each thing that is ever held.
        lines: The steps.
    """

    slots: tuple[Slot, ...]
    lines: tuple[Line, ...]


def resolve(rank: int, program: Program, problem: Problem) -> Draft:
    """Name memory in place of blocks, and leave out what is empty: every rank knows all lengths.

    Args:
        rank: The rank.
        program: What it does, out of a proved schedule.
        problem: The shapes.
    """
    return _Resolver(rank, problem).draft(program)


class _Resolver:
    def __init__(self, rank: int, problem: Problem) -> None:
        self._rank, self._problem = rank, problem
        self._own = q_block(rank), kv_block(rank), o_block(rank, rank)
        self._slots = [self._slot(block) for block in self._own[:2]]
        result = problem.shape(self._own[2])
        self._slots.append(Slot(SlotForm.SUM, result, sum_size(result)))
        self._held: dict[tuple[Kind, int], dict[Block, int]] = {}  # by kind and owner, as fine cuts name many blocks
        self._hold(self._own[0], OWN_Q)
        self._hold(self._own[1], OWN_KV)
        self._sums: dict[Block, int] = {}
        self._exchanges: dict[Block, int] = {}

    def draft(self, program: Program) -> Draft:
        lines: list[Line] = []
        for index, action in enumerate(program):
            if isinstance(action, Exchange):
                steps = self._exchange(index, action)
            elif isinstance(action, Attend):
                steps = self._attend(action)
            else:
                steps = self._merge(action.partial)
            lines += [Line(index, step) for step in steps]
        return Draft(tuple(self._slots), tuple(lines))

    def _exchange(self, index: int, exchange: Exchange) -> Iterable[Step]:
        channel = exchange.channel.value
        recvs = []
        for t in self._existing(exchange.recvs):
            self._slots.append(self._slot(t.block))
            self._hold(t.block, len(self._slots) - 1)
            recvs.append(Recv(channel, t.peer, len(self._slots) - 1, t.block, index))
        going = self._existing(exchange.sends)
        blocks = list(dict.fromkeys(t.block for t in going))
        payloads = []
        for block in blocks:
            if block.kind is Kind.O:
                source = self._sum(block)
                self._slots.append(self._slot(block))
                payloads.append(View(len(self._slots) - 1))
                yield Pack(source, len(self._slots) - 1, block)
            else:
                payloads.append(self._part(block))
        sends = tuple(Send(channel, t.peer, blocks.index(t.block), t.block) for t in going)
        blocks_posted = [*(recv.block for recv in recvs), *(send.block for send in sends)]
        if blocks_posted:
            messages = sum(block.kind.messages for block in blocks_posted)
            yield Post(tuple(recvs), tuple(payloads), sends, messages)

    def _attend(self, action: Attend) -> Iterable[Step]:
        queries, keys = action.narrowed
        if not (self._exists(queries) and self._exists(keys)):
            return
        batch, heads, q_tokens, _ = self._problem.shape(queries)
        partial = action.partial(self._rank)
        own = partial.owner == self._rank
        target = self._result(partial) if own else Target(self._sum(partial))
        causal, kv_tokens = action.mask is Mask.CAUSAL, self._problem.shape(keys)[2]
        parts = self._part(queries), self._part(keys)
        yield KernelCall(*parts, causal, (target,), batch * heads, q_tokens, kv_tokens, (action,))

    def _merge(self, partial: Block) -> Iterable[Step]:
        if self._exists(partial):
            slot = self._held[partial.kind, partial.owner][partial]
            yield MergeCall((Partial(slot, self._result(partial).cut, partial),))

    def _existing(self, transfers: Iterable[Transfer]) -> list[Transfer]:
        return [t for t in transfers if self._exists(t.block)]

    def _exists(self, block: Block) -> bool:
        return all(self._problem.shape(block))

    def _slot(self, block: Block) -> Slot:
        forms = {Kind.Q: SlotForm.QUERIES, Kind.KV: SlotForm.KEYS, Kind.O: SlotForm.PARTIAL}
        return Slot(forms[block.kind], self._problem.shape(block), self._problem.size(block))

    def _hold(self, block: Block, slot: int) -> None:
        self._held.setdefault((block.kind, block.owner), {})[block] = slot

    def _part(self, block: Block) -> View:
        held = self._held[block.kind, block.owner]
        around = block if block in held else next(other for other in held if other.covers(block))
        return View(held[around], self._cut(around, block))

    def _sum(self, partial: Block) -> int:
        if partial not in self._sums:
            shape = self._problem.shape(partial)
            self._slots.append(Slot(SlotForm.SUM, shape, sum_size(shape)))
            self._sums[partial] = len(self._slots) - 1
        return self._sums[partial]

    def _result(self, partial: Block) -> Target:
        return Target(RESULT, self._cut(self._own[0], partial))

    def _cut(self, around: Block, block: Block) -> tuple[int, int, int, int] | None:
        low, high, first, last = self._problem.area(block)
        base_low, base_high, base_first, base_last = self._problem.area(around)
        if (low, high, first, last) == (base_low, base_high, base_first, base_last):
            return None
        return low - base_low, high - base_low, first - base_first, last - base_first
