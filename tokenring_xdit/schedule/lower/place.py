"""Slots for what is held: memory of the same form and shape is used again once nothing needs what is in it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import (
    OWN_KV,
    OWN_Q,
    RESULT,
    Concat,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    RankProgram,
    Recv,
    Slot,
    SlotForm,
    Step,
    View,
    reads,
    writes,
)

__all__ = ["place"]


def place(draft: Draft) -> RankProgram:
    """Give everything that is held a slot.

    The oldest free slot is taken first: what still leaves from it is the likeliest to be over, and whoever writes to it
    waits for that. A packed partial output keeps its slot until a partial output has been merged that came in the same
    exchange or a later one: those are as old, so the plan has left time for its message as well.
    """
    return _Placing(draft).program()


class _Placing:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._slots = list(draft.slots[: RESULT + 1])
        self._numbers = {number: number for number in (OWN_Q, OWN_KV, RESULT)}  # of what is held, by that of the draft
        self._free: dict[Slot, deque[int]] = defaultdict(deque)
        self._packed: deque[tuple[int, int]] = deque()  # exchange and number of what leaves
        self._came: dict[int, int] = {}  # exchange that brings what is held
        self._unused: list[Recv] = []  # what comes and nothing reads; its exchange is not posted yet
        inside = {slot.inside for slot in draft.slots if slot.inside >= 0}
        self._kept = {  # memory that is written once: parts of a slot and what they are parts of, and kernels' outputs
            number
            for number, slot in enumerate(draft.slots)
            if number in inside or slot.inside >= 0 or slot.form is SlotForm.OUTPUT
        }
        self._last = {number: at for at, line in enumerate(draft.lines) for number in reads(line.step)}

    def program(self) -> RankProgram:
        steps: list[tuple[int, Step]] = []
        sums = peak = self._slots[RESULT].size
        for at, line in enumerate(self._draft.lines):
            named = (*writes(line.step), *reads(line.step))  # a sum may be read that nothing was added to
            new = [number for number in dict.fromkeys(named) if number not in self._numbers]
            for number in new:
                self._take(number)
            sums += sum(self._draft.slots[number].size for number in new if self._is_sum(number))
            peak = max(peak, sums)
            steps.append((line.action, _renumbered(line.step, self._numbers)))
            if isinstance(line.step, Pack):
                sums -= self._draft.slots[line.step.source].size
            self._release(at, line)
        messages = [
            slot.size for slot in self._slots[RESULT + 1 :] if slot.form is not SlotForm.SUM and slot.inside < 0
        ]
        return RankProgram(tuple(self._slots), tuple(steps), peak + sum(messages))

    def _is_sum(self, number: int) -> bool:
        return self._draft.slots[number].form is SlotForm.SUM

    def _take(self, number: int) -> None:
        slot = self._draft.slots[number]
        if slot.inside >= 0:
            if slot.inside not in self._numbers:
                self._take(slot.inside)
            slot = slot._replace(inside=self._numbers[slot.inside])
        if self._free[slot]:
            self._numbers[number] = self._free[slot].popleft()
            return
        self._numbers[number] = len(self._slots)
        self._slots.append(slot)

    def _give(self, number: int) -> None:
        if number not in self._kept:
            self._free[self._draft.slots[number]].append(self._numbers[number])

    def _release(self, at: int, line: Line) -> None:
        """What nothing needs any more after a line."""
        step = line.step
        if isinstance(step, Post):
            self._came.update((recv.slot, recv.exchange) for recv in step.recvs)
            self._unused += [recv for recv in step.recvs if recv.slot not in self._last]
            for recv in [recv for recv in self._unused if recv.exchange <= line.action]:
                self._unused.remove(recv)
                self._give(recv.slot)
        over = [number for number in dict.fromkeys(reads(step)) if self._last[number] == at and number > RESULT]
        for number in over:
            if isinstance(step, Post) and self._draft.slots[number].form is SlotForm.PARTIAL:
                self._packed.append((line.action, number))
            else:
                self._give(number)
        if isinstance(step, MergeCall):
            until = max(self._came[partial.slot] for partial in step.partials)
            while self._packed and self._packed[0][0] <= until:
                self._give(self._packed.popleft()[1])


def _renumbered(step: Step, numbers: dict[int, int]) -> Step:
    def part(old: View) -> View:
        return View(numbers[old.slot], old.cut)

    def parts(old: Iterable[View]) -> tuple[View, ...]:
        return tuple(map(part, old))

    if isinstance(step, Post):
        recvs = tuple(recv._replace(slot=numbers[recv.slot]) for recv in step.recvs)
        own = numbers[step.own] if step.own >= 0 else -1
        return step._replace(recvs=recvs, payloads=parts(step.payloads), own=own)
    if isinstance(step, Pack):
        return step._replace(source=numbers[step.source], slot=numbers[step.slot])
    if isinstance(step, Concat):
        return step._replace(parts=parts(step.parts), slot=numbers[step.slot])
    if isinstance(step, KernelCall):
        targets = tuple(target._replace(slot=numbers[target.slot]) for target in step.targets)
        output = numbers[step.output] if step.output >= 0 else -1
        return step._replace(queries=part(step.queries), keys=part(step.keys), targets=targets, output=output)
    if isinstance(step, MergeCall):
        return MergeCall(tuple(partial._replace(slot=numbers[partial.slot]) for partial in step.partials))
    return step
