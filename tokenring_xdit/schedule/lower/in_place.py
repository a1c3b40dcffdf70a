"""Nothing is copied that need not be: blocks arrive where they are read, and outputs leave from where they were made.

Memory is token-major for that, ``[S, B, H, D]``: what lies one behind the other is one tensor, and the rows of an
output that belong to one rank are contiguous.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import (
    RESULT,
    Concat,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    Slot,
    SlotForm,
    Step,
    Target,
    View,
    reads,
    writes,
)
from tokenring_xdit.schedule.plan import Block

__all__ = ["nest", "send_rows"]


def send_rows(drafts: Sequence[Draft]) -> tuple[Draft, ...]:
    """Send rows of a kernel's output in place of packed messages, where one call has made all of what goes.

    Args:
        drafts: Drafts of all ranks.
    """
    found = [_Rows(draft) for draft in drafts]
    sent = [of_rank.blocks for of_rank in found]
    return tuple(_received(of_rank.draft, sent) for of_rank in found)


class _Rows:
    """The outputs of a rank.

    Args:
        draft: Draft of the rank.

    Attributes:
        draft: What has become of it.
        blocks: Partial outputs that are sent as rows.
    """

    def __init__(self, draft: Draft) -> None:
        self._uses = Counter(slot for line in draft.lines for slot in (*reads(line.step), *writes(line.step)))
        self._packs = {line.step.source: line.step for line in draft.lines if isinstance(line.step, Pack)}
        self._slots = list(draft.slots)
        self._rows: dict[int, View] = {}  # by the slot of the message that they are in place of
        lines = [Line(line.action, self._kernel(line.step)) for line in draft.lines]
        self.blocks = {pack.block for pack in self._packs.values() if pack.slot in self._rows}
        lines = [line for line in lines if not (isinstance(line.step, Pack) and line.step.slot in self._rows)]
        self.draft = Draft(tuple(self._slots), tuple(Line(a, self._post(s)) for a, s in lines))

    def _kernel(self, step: Step) -> Step:
        if not isinstance(step, KernelCall):
            return step
        direct = [target for target in step.targets if self._is_direct(target)]
        if not direct:
            return step
        output, whole = len(self._slots), (0, step.q_tokens)
        for target in direct:
            message = self._packs[target.slot].slot
            first, last = target.rows or whole
            self._rows[message] = View(output, (0, self._slots[message].shape[1], first, last))
        batch, heads, tokens, head_dim = self._slots[message].shape
        size = self._slots[message].size // tokens * step.q_tokens
        self._slots.append(Slot(SlotForm.OUTPUT, (batch, heads, step.q_tokens, head_dim), size))
        rest = tuple(target for target in step.targets if target not in direct)
        return step._replace(targets=rest, output=output)

    def _is_direct(self, target: Target) -> bool:
        """Whether a kernel call makes all of a message, and nothing else is made of it."""
        used_once = self._uses[target.slot] == 2  # added to, and packed
        return target.slot != RESULT and target.cut is None and used_once and target.slot in self._packs

    def _post(self, step: Step) -> Step:
        if not isinstance(step, Post):
            return step
        more = sum(step.payloads[send.payload].slot in self._rows for send in step.sends)
        payloads = tuple(self._rows.get(view.slot, view) for view in step.payloads)
        return step._replace(payloads=payloads, messages=step.messages + more)


def _received(draft: Draft, sent: Sequence[set[Block]]) -> Draft:
    """The draft with memory for what comes as rows."""
    slots = list(draft.slots)
    lines = []
    for line in draft.lines:
        step = line.step
        if isinstance(step, Post):
            rows = [recv for recv in step.recvs if recv.block in sent[recv.peer]]
            for recv in rows:
                slots[recv.slot] = slots[recv.slot]._replace(form=SlotForm.OUTPUT)
            step = step._replace(messages=step.messages + len(rows))
        lines.append(Line(line.action, step))
    return Draft(tuple(slots), tuple(lines))


def nest(draft: Draft, ranks: int) -> Draft:
    """Let blocks arrive inside of the slot in which they are put together, and partial outputs one behind the other.

    Args:
        draft: Draft of a rank.
        ranks: How many there are.
    """
    slots = list(draft.slots)
    arriving = {recv.slot for line in draft.lines if isinstance(line.step, Post) for recv in line.step.recvs}
    for line in draft.lines:
        if isinstance(line.step, Concat):
            first = 0
            for view in line.step.parts:
                slot = slots[view.slot]
                if view.slot in arriving and view.cut is None and slot.inside < 0:
                    slots[view.slot] = slot._replace(inside=line.step.slot, first=first)
                first += slot.part(view.cut).shape[2]
        elif isinstance(line.step, MergeCall):
            _put_one_behind_the_other(slots, line.step, ranks)
    return replace(draft, slots=tuple(slots))


def _put_one_behind_the_other(slots: list[Slot], merge: MergeCall, ranks: int) -> None:
    """Give partial outputs of one size a slot; where they come from all other ranks, with room for this rank's own."""
    numbers = {partial.block.at or 0: partial.slot for partial in merge.partials}
    like = slots[merge.partials[0].slot]
    if like.form is not SlotForm.OUTPUT or any(slots[partial.slot] != like for partial in merge.partials):
        return
    if len(numbers) == len(merge.partials) == ranks - 1:
        count, places = ranks, numbers
    else:
        count, places = len(merge.partials), dict(enumerate(partial.slot for partial in merge.partials))
    batch, heads, tokens, head_dim = like.shape
    for place, number in places.items():
        slots[number] = like._replace(inside=len(slots), first=place * tokens)
    slots.append(Slot(like.form, (batch, heads, count * tokens, head_dim), count * like.size))
