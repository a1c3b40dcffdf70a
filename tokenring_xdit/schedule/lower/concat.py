"""Keys that several queries attend, one query after the other, are put together once.

A kernel is faster the more keys it sees, and leaves less to merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import Concat, KernelCall, Slot, View

__all__ = ["concat_keys", "joined_slot"]


def concat_keys(draft: Draft) -> Draft:
    """Make one call of consecutive ones that have the same queries, where other queries attend the same keys too.

    Only keys that have been attended before are put together, so that nothing waits for it. Under a causal mask hardly
    two blocks attend the same keys.
    """
    runs = _runs(draft)
    shared = Counter(tuple(kernel.keys for kernel in _kernels(run)) for run in runs)
    slots, lines = list(draft.slots), list[Line]()
    made: dict[tuple[View, ...], View] = {}
    for run in runs:
        kernels = _kernels(run)
        keys = tuple(kernel.keys for kernel in kernels)
        if len(keys) < 2 or shared[keys] < 2:
            lines += run
            continue
        index = run[-1].action
        if keys not in made:
            slots.append(joined_slot(slots, keys))
            made[keys] = View(len(slots) - 1)
            blocks = tuple(kernel.attends[0].narrowed[1] for kernel in kernels)
            lines.append(Line(index, Concat(keys, len(slots) - 1, blocks)))
        joined = kernels[0]._replace(
            keys=made[keys],
            kv_tokens=sum(kernel.kv_tokens for kernel in kernels),
            attends=tuple(attend for kernel in kernels for attend in kernel.attends),
        )
        lines.append(Line(index, joined))
    return replace(draft, slots=tuple(slots), lines=tuple(lines))


def _kernels(run: Sequence[Line]) -> list[KernelCall]:
    return [line.step for line in run if isinstance(line.step, KernelCall)]


def _runs(draft: Draft) -> list[list[Line]]:
    """The lines in order, those together that could be one call."""
    runs: list[list[Line]] = []
    attended: set[View] = set()
    open_for: View | None = None  # queries that may go on with the last run
    for line in draft.lines:
        joinable = None
        if isinstance(line.step, KernelCall):
            if line.step.keys in attended and not line.step.causal:
                joinable = line.step.queries
            attended.add(line.step.keys)
        if joinable is None or joinable != open_for:
            runs.append([])
        runs[-1].append(line)
        open_for = joinable
    return runs


def joined_slot(slots: Sequence[Slot], views: Sequence[View]) -> Slot:
    """The slot for parts of slots of one form, one behind the other along their tokens."""
    parts = [slots[view.slot].part(view.cut) for view in views]
    batch, heads, _, head_dim = parts[0].shape
    tokens = sum(part.shape[2] for part in parts)
    return Slot(parts[0].form, (batch, heads, tokens, head_dim), sum(part.size for part in parts))
