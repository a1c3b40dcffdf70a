"""The proof of lowered programs: all ranks side by side, with what each slot holds in place of numbers.

What holds of programs that pass :func:`prove`:

* messages match in number, order, form, shape and bytes for each source, destination and channel;
* nothing is read that is not there, and no slot is written while what is in it is needed, arrives or leaves, unless the
  rank waits for that first, as the executor does;
* each rank's result has every pair of a query and a key that the mask asks for, once, and no other; where the kernel
  has a mask of its own, every query with all keys of the block that it may see some of;
* every rank gets to its end, on a transport whose transfers are independent, or which works off the exchanges of a
  channel in order, even where no send is over before its receive has been posted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations

from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule.lower.areas import Area, Content, Pairs
from tokenring_xdit.schedule.lower.memory import faults, faults_between
from tokenring_xdit.schedule.lower.program import (
    OWN_KV,
    OWN_Q,
    RESULT,
    Concat,
    Done,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    RankProgram,
    SlotForm,
    View,
    reads,
    writes,
)
from tokenring_xdit.schedule.lower.transfers import RouteTransfer, Side, Transfers
from tokenring_xdit.schedule.plan import Attend, Mask
from tokenring_xdit.schedule.problem import Problem

__all__ = ["Asked", "prove"]

Asked = Callable[[int, int], tuple[int, int, bool]]
"""Of a rank's queries and another's keys: the first key that is asked for, the last, excluded, and whether causally."""


def prove(
    name: str, programs: Sequence[RankProgram], problem: Problem, *, mask: Mask | Asked = Mask.FULL, in_order: bool
) -> None:
    """Refuse programs that could compute wrongly or wait for ever.

    Args:
        name: What to call them.
        programs: Programs of all ranks.
        problem: The shapes.
        mask: Which pairs are asked for; a function where the kernel knows a mask of its own inside of them.
        in_order: Whether the transport works off the exchanges of a channel one after the other.

    Raises:
        VerificationError: Naming the rank and the action at fault.
    """
    _Proof(name, programs, problem, mask, in_order).run()


def _asked(mask: Mask, problem: Problem) -> Asked:
    def asked(rank: int, owner: int) -> tuple[int, int, bool]:
        keys = problem.kv_lengths[owner] if mask.asks(rank, owner) else 0
        return 0, keys, mask.of_pair(rank, owner) is Mask.CAUSAL

    return asked


class _ProvedRank:
    def __init__(self, number: int, program: RankProgram, problem: Problem) -> None:
        self.number, self.program = number, program
        self.slots, self.steps = program.slots, program.steps
        self.at = 0
        queries = Area(number, 0, problem.heads, 0, problem.q_lengths[number])
        keys = Area(number, 0, problem.kv_heads, 0, problem.kv_lengths[number])
        self.content = {
            OWN_Q: Content(SlotForm.QUERIES, (queries,)),
            OWN_KV: Content(SlotForm.KEYS, (keys,)),
            RESULT: Content(SlotForm.SUM, (queries,)),
        }
        self.arriving: dict[int, RouteTransfer] = {}  # by slot
        self.leaving: dict[int, list[RouteTransfer]] = defaultdict(list)
        self.posted: list[tuple[Post, list[RouteTransfer]]] = []  # and what each sends


class _Proof:
    def __init__(
        self, name: str, programs: Sequence[RankProgram], problem: Problem, mask: Mask | Asked, in_order: bool
    ) -> None:
        self._name, self._problem = name, problem
        self._transfers = Transfers(in_order, self._fail)
        self._by_block = not isinstance(mask, Mask)  # a kernel knows its mask by the block that it attends, as a whole
        self._asked = _asked(mask, problem) if isinstance(mask, Mask) else mask
        self._ranks = [_ProvedRank(rank, program, problem) for rank, program in enumerate(programs)]

    def run(self) -> None:
        """Let all ranks get as far as they can, which no order of theirs changes, then see what came of it."""
        for rank in self._ranks:
            for index, fault in faults(rank.program):
                raise self._fail(rank, index, fault)
        for number, fault in faults_between([rank.program for rank in self._ranks]):
            raise self._fail(number, None, fault)
        moved = True
        while moved:
            advanced = [self._advance(rank) for rank in self._ranks]
            moved = any(advanced)
            while self._transfers.work_off():
                moved = True
        for rank in self._ranks:
            if rank.at < len(rank.steps):
                raise self._fail(rank, rank.steps[rank.at][0], "waits for ever for what it needs")
        self._transfers.refuse_unmatched()
        for rank in self._ranks:
            self._refuse_incomplete(rank)

    def _fail(self, rank: _ProvedRank | int, index: int | None, problem: str) -> VerificationError:
        number = rank if isinstance(rank, int) else rank.number
        return VerificationError(self._name, number, index, f"{problem}, once lowered to slots")

    def _advance(self, rank: _ProvedRank) -> bool:
        """Run one rank until it waits or ends; whether it got anywhere."""
        start = rank.at
        while rank.at < len(rank.steps):
            index, step = rank.steps[rank.at]
            if isinstance(step, Post | Pack | Concat) and not all(self._is_idle(rank, slot) for slot in writes(step)):
                break
            if not isinstance(step, Pack) and not all(self._is_here(rank, slot) for slot in reads(step)):
                break
            if isinstance(step, Done) and not self._is_done(rank, index, step.post):
                break
            if isinstance(step, Post):
                self._post(rank, index, step)
            elif isinstance(step, Pack):
                self._pack(rank, index, step)
            elif isinstance(step, Concat):
                self._concat(rank, index, step)
            elif isinstance(step, KernelCall):
                self._attend(rank, index, step)
            elif isinstance(step, MergeCall):
                self._merge(rank, index, step)
            rank.at += 1
        return rank.at > start

    # -- slots -------------------------------------------------------------------------------------------------------

    def _is_here(self, rank: _ProvedRank, slot: int) -> bool:
        """Whether a slot holds something; ``False`` while that is on its way."""
        if slot in rank.arriving:
            if not self._transfers.is_over(rank.number, rank.arriving[slot]):
                return False
            rank.content[slot] = self._transfers.content(rank.arriving.pop(slot))
        if slot not in rank.content:
            raise self._fail(rank, rank.steps[rank.at][0], f"reads slot {slot}, which holds nothing")
        return True

    def _is_idle(self, rank: _ProvedRank, slot: int) -> bool:
        """Whether a slot may be written: nothing arrives there any more, and nothing leaves."""
        if slot <= RESULT or slot >= len(rank.slots):
            raise self._fail(rank, rank.steps[rank.at][0], f"writes to slot {slot}, which is no memory for messages")
        if slot in rank.arriving and not self._is_here(rank, slot):
            return False
        if not all(self._transfers.is_over(rank.number, transfer) for transfer in rank.leaving[slot]):
            return False
        rank.leaving[slot].clear()
        return True

    def _is_done(self, rank: _ProvedRank, index: int, number: int) -> bool:
        """Whether what an exchange sent has gone; if so, what came with it and went is there no more."""
        if number >= len(rank.posted):
            raise self._fail(rank, index, f"ends exchange {number} before it has begun")
        post, sends = rank.posted[number]
        slots = [slot for slot in (*writes(post), *reads(post)) if slot > RESULT]
        for slot in slots:
            if slot in rank.arriving:
                raise self._fail(rank, index, f"gives back slot {slot} before it has been read")
        if not all(self._transfers.is_over(rank.number, transfer) for transfer in sends):
            return False
        if not all(self._is_idle(rank, slot) for slot in slots):
            return False
        for slot in slots:
            rank.content.pop(slot, None)
        return True

    def _put(self, rank: _ProvedRank, index: int, slot: int, content: Content) -> None:
        there, (heads, tokens) = rank.slots[slot], content.extent
        if (there.form, there.shape[1:3]) != (content.form, content.extent):
            problem = f"puts {content.form.value} of {heads} heads and {tokens} tokens into slot {slot}, which is for "
            problem += f"{there.form.value} of {there.shape[1]} and {there.shape[2]}"
            raise self._fail(rank, index, problem)
        rank.content[slot] = content

    def _view(self, rank: _ProvedRank, index: int, part: View) -> Content:
        if part.slot not in rank.content:  # what the same exchange receives there has taken its place
            raise self._fail(rank, index, f"reads slot {part.slot}, which holds nothing")
        content = rank.content[part.slot].view(part.cut)
        if content is None:
            raise self._fail(rank, index, f"cuts slot {part.slot} where it cannot be cut")
        return content

    # -- steps -------------------------------------------------------------------------------------------------------

    def _post(self, rank: _ProvedRank, index: int, step: Post) -> None:
        arriving: list[RouteTransfer] = []
        sends: list[RouteTransfer] = []
        rank.posted.append((step, sends))
        for recv in step.recvs:
            slot, route = rank.slots[recv.slot], (recv.peer, rank.number, recv.channel)
            side = Side(index, slot.form, slot.shape[1], slot.shape[2], slot.size)
            transfer = self._transfers.expect(route, side)
            rank.content.pop(recv.slot, None)
            if recv.slot in rank.arriving:
                raise self._fail(rank, index, f"receives twice into slot {recv.slot}")
            rank.arriving[recv.slot] = transfer
            arriving.append(transfer)
        for send in step.sends:
            part = step.payloads[send.payload]
            content, route = self._view(rank, index, part), (rank.number, send.peer, send.channel)
            if content.form is SlotForm.SUM:
                raise self._fail(rank, index, f"sends slot {part.slot}, which is no message")
            side = Side(index, content.form, *content.extent, rank.slots[part.slot].part(part.cut).size)
            transfer = self._transfers.send(route, side, content)
            rank.leaving[part.slot].append(transfer)
            sends.append(transfer)
        if step.own >= 0:
            self._put(rank, index, step.own, self._view(rank, index, step.payloads[0]))
        self._transfers.queue(rank.number, [*arriving, *sends])

    def _pack(self, rank: _ProvedRank, index: int, step: Pack) -> None:
        nothing = Content(SlotForm.SUM, (Area(step.block.owner, *self._problem.area(step.block)),))
        content = rank.content.pop(step.source, nothing)
        if content.form is not SlotForm.SUM or step.source == RESULT:
            raise self._fail(rank, index, f"packs slot {step.source}, which is no sum for another rank")
        self._put(rank, index, step.slot, content._replace(form=SlotForm.PARTIAL))

    def _concat(self, rank: _ProvedRank, index: int, step: Concat) -> None:
        views = [self._view(rank, index, part) for part in step.parts]
        areas = tuple(area for view in views for area in view.areas)
        if len({(view.form, area.high - area.low) for view in views for area in view.areas}) > 1:
            raise self._fail(rank, index, "puts together what has different heads or forms")
        self._put(rank, index, step.slot, Content(views[0].form, areas))

    def _attend(self, rank: _ProvedRank, index: int, step: KernelCall) -> None:
        queries, keys = self._view(rank, index, step.queries), self._view(rank, index, step.keys)
        found = (queries.form, keys.form, queries.extent[1], keys.extent[1])
        if found != (SlotForm.QUERIES, SlotForm.KEYS, step.q_tokens, step.kv_tokens):
            raise self._fail(rank, index, f"attends {step}, but its slots hold something else")
        if self._by_block and [(queries.areas, keys.areas)] != [self._block(attend) for attend in step.attends]:
            raise self._fail(rank, index, f"attends {step}, but not all that is asked for of that, or something else")
        heads, kv_heads = self._problem.heads, self._problem.kv_heads
        first, left = 0, {target.rows or (0, step.q_tokens): target for target in step.targets}
        output: list[Pairs] = []
        for area in queries.areas:
            target = left.pop((first, first + area.tokens), None)
            first += area.tokens
            made = tuple(Pairs(area, key, step.causal) for key in keys.areas)
            for _, key, causal in made:
                if (area.low * kv_heads, area.high * kv_heads) != (key.low * heads, key.high * heads):
                    raise self._fail(rank, index, f"attends {step}, whose heads do not belong together")
                if causal and area.owner != key.owner:
                    raise self._fail(rank, index, f"attends {step} causally, which only a rank's own pair can be")
            output += made
            if target is None and step.output >= 0:
                continue
            if target is None:
                raise self._fail(rank, index, f"attends {step}, and an output of it goes nowhere")
            if target.slot not in rank.content:
                self._put(rank, index, target.slot, Content(SlotForm.SUM, (area,)))
            into = rank.content[target.slot]
            if into.form is not SlotForm.SUM or into.areas[0].within(target.cut) != area:
                raise self._fail(
                    rank, index, f"adds the output of {step} to slot {target.slot}, which is of other queries"
                )
            rank.content[target.slot] = into._replace(pairs=(*into.pairs, *made))
        if left:
            raise self._fail(rank, index, f"attends {step}, of whose output there is not that much")
        if step.output >= 0:
            self._put(rank, index, step.output, Content(SlotForm.OUTPUT, queries.areas, tuple(output)))

    def _block(self, attend: Attend) -> tuple[tuple[Area, ...], tuple[Area, ...]]:
        """The queries of a rank, and what they are to attend of a rank's keys."""
        asking, owner = attend.q.owner, attend.kv.owner
        first, last, _ = self._asked(asking, owner)
        queries = Area(asking, 0, self._problem.heads, 0, self._problem.q_lengths[asking])
        return (queries,), (Area(owner, 0, self._problem.kv_heads, first, last),)

    def _merge(self, rank: _ProvedRank, index: int, step: MergeCall) -> None:
        for partial in step.partials:
            if partial.slot not in rank.content:
                raise self._fail(rank, index, f"merges slot {partial.slot} twice")
            content, result = rank.content[partial.slot], rank.content[RESULT]
            whole = content.form in (SlotForm.PARTIAL, SlotForm.OUTPUT) and len(content.areas) == 1
            if not whole or content.areas[0] != result.areas[0].within(partial.cut):
                raise self._fail(rank, index, f"merges slot {partial.slot}, which is not of these queries")
            del rank.content[partial.slot]
            rank.content[RESULT] = result._replace(pairs=(*result.pairs, *content.pairs))

    # -- at the end --------------------------------------------------------------------------------------------------

    def _refuse_incomplete(self, rank: _ProvedRank) -> None:
        result = rank.content[RESULT]
        of_owner: dict[int, list[Pairs]] = defaultdict(list)
        for pairs in result.pairs:
            of_owner[pairs.keys.owner].append(pairs)
        queries = self._problem.heads * self._problem.q_lengths[rank.number]
        for owner in range(len(self._ranks)):
            found = of_owner[owner]
            first, last, causal = self._asked(rank.number, owner)
            outside = any(pairs.keys.first < first or pairs.keys.last > last for pairs in found)
            other = sum(pairs.number for pairs in found) != queries * (last - first)
            if outside or other or any(pairs.causal != causal for pairs in found):
                raise self._fail(rank, None, f"does not attend all of rank {owner}'s keys, or more than that")
            if any(one.overlaps(another) for one, another in combinations(found, 2)):
                raise self._fail(rank, None, f"attends some of rank {owner}'s keys twice")
