"""One kernel call in place of several, and one merge: fewer launches, less overlap.

Calls with the same keys put their queries together, then calls with the same queries their keys. Up to some width
(:func:`widen`) a call waits for the last of what it needs; whatever needs an output of it comes behind it, and the rest
goes ahead. Where everything has come before the first call (:func:`widest_calls`), any calls can be one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from tokenring_xdit.schedule.lower.concat import joined_slot
from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import (
    RESULT,
    Concat,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    Step,
    Target,
    View,
    reads,
    writes,
)

__all__ = ["merge_together", "widen", "widest_calls"]


def widen(draft: Draft, wide: int) -> Draft:
    """Put up to ``wide`` kernel calls together, by their keys and then by their queries."""
    return _put_together(_put_together(draft, wide, _Axis.QUERIES), wide, _Axis.KEYS)


def widest_calls(draft: Draft) -> Draft:
    """Make one call of all that have the same keys, and one of all those that have the same queries then.

    Args:
        draft: A rank's program in phases: its kernel calls wait for nothing but the first exchange.
    """
    calls = [line for line in draft.lines if isinstance(line.step, KernelCall)]
    if not calls:
        return draft
    at, index = draft.lines.index(calls[0]), calls[-1].action
    behind = [line for line in draft.lines[at:] if line not in calls]
    lines = [line for line in calls if isinstance(line.step, KernelCall) and line.step.causal]
    of_keys: dict[View, list[KernelCall]] = defaultdict(list)
    for line in calls:
        if isinstance(line.step, KernelCall) and not line.step.causal:
            of_keys[line.step.keys].append(line.step)
    of_queries: dict[tuple[tuple[View, tuple[Target, ...]], ...], list[list[KernelCall]]] = defaultdict(list)
    for kernels in of_keys.values():
        kernels.sort(key=_Axis.QUERIES.order)
        of_queries[tuple((kernel.queries, kernel.targets) for kernel in kernels)].append(kernels)
    joining = _Joining(draft)
    for groups in of_queries.values():
        wide = [joining.one(_Axis.QUERIES, kernels, index) for kernels in groups]
        wide.sort(key=_Axis.KEYS.order)
        call = joining.one(_Axis.KEYS, wide, index)
        lines += [*joining.taken(), Line(index, call)]
    return Draft(tuple(joining.slots), (*draft.lines[:at], *lines, *behind))


def merge_together(draft: Draft, wide: int) -> Draft:
    """Merge up to ``wide`` partial outputs at once, behind what is posted meanwhile."""
    lines: list[Line] = []
    waiting: list[Line] = []
    for line in draft.lines:
        if isinstance(line.step, MergeCall):
            waiting.append(line)
            continue
        if not isinstance(line.step, Pack | Post):
            lines += _merged(waiting, wide)
            waiting.clear()
        lines.append(line)
    return replace(draft, lines=(*lines, *_merged(waiting, wide)))


def _merged(merges: Sequence[Line], wide: int) -> list[Line]:
    partials = [
        (line.action, each) for line in merges if isinstance(line.step, MergeCall) for each in line.step.partials
    ]
    groups = [partials[start : start + wide] for start in range(0, len(partials), wide)]
    return [Line(group[-1][0], MergeCall(tuple(each for _, each in group))) for group in groups]


class _Axis(Enum):
    """What kernel calls put together; the other one they have in common."""

    QUERIES = auto()
    KEYS = auto()

    def allows(self, first: KernelCall, other: Step) -> bool:
        """Whether two calls can be one."""
        if not isinstance(other, KernelCall) or first.causal or other.causal:
            return False
        if self is _Axis.QUERIES:
            return first.keys == other.keys and first.queries != other.queries
        return first.queries == other.queries and first.targets == other.targets and first.keys != other.keys

    def parts(self, kernels: Sequence[KernelCall]) -> tuple[View, ...]:
        """What the calls put together."""
        return tuple(kernel.queries if self is _Axis.QUERIES else kernel.keys for kernel in kernels)

    def order(self, kernel: KernelCall) -> tuple[int, int, int]:
        """Sorts by rank what the calls put together, as collectives do."""
        block = kernel.attends[0].narrowed[self is _Axis.KEYS]
        return block.owner, block.tokens.index, block.heads.index

    def call(self, kernels: Sequence[KernelCall], part: View) -> KernelCall:
        """The call in place of all of them, on what they put together."""
        attends = tuple(attend for kernel in kernels for attend in kernel.attends)
        if self is _Axis.KEYS:
            return kernels[0]._replace(keys=part, kv_tokens=sum(k.kv_tokens for k in kernels), attends=attends)
        targets, before = [], 0
        for kernel in kernels:
            for target in kernel.targets:
                first, last = target.rows or (0, kernel.q_tokens)
                targets.append(target._replace(rows=(before + first, before + last)))
            before += kernel.q_tokens
        return kernels[0]._replace(queries=part, q_tokens=before, targets=tuple(targets), attends=attends)


class _Joining:
    """Puts calls of a draft together.

    Args:
        draft: The draft.

    Attributes:
        slots: Its slots, and those of what is put together.
    """

    def __init__(self, draft: Draft) -> None:
        self.slots = list(draft.slots)
        self._made: dict[tuple[View, ...], View] = {}
        self._concats: list[Line] = []

    def one(self, axis: _Axis, kernels: Sequence[KernelCall], action: int) -> KernelCall:
        """One call in place of several that have the other axis in common; what it needs is put together before it."""
        if len(kernels) < 2:
            return kernels[0]
        parts = axis.parts(kernels)
        if parts not in self._made:
            self._made[parts] = View(len(self.slots))
            self.slots.append(joined_slot(self.slots, parts))
            named = (attend.narrowed[axis is _Axis.KEYS] for kernel in kernels for attend in kernel.attends)
            self._concats.append(Line(action, Concat(parts, self._made[parts].slot, tuple(dict.fromkeys(named)))))
        return axis.call(kernels, self._made[parts])

    def taken(self) -> list[Line]:
        """What has to be put together before the last call, and has not been before."""
        concats, self._concats = self._concats, []
        return concats


def _put_together(draft: Draft, wide: int, axis: _Axis) -> Draft:
    lines: list[Line] = []
    joining = _Joining(draft)
    rest = draft.lines
    while rest:
        group = _find(rest, wide, axis)
        kernels = sorted((line.step for line in group.members if isinstance(line.step, KernelCall)), key=axis.order)
        if len(kernels) < 2:
            lines.append(rest[0])
            rest = rest[1:]
            continue
        index = group.members[-1].action
        call = joining.one(axis, kernels, index)
        lines += [*group.ahead, *joining.taken(), Line(index, call)]
        rest = (*group.behind, *rest[group.end :])
    return Draft(tuple(joining.slots), tuple(lines))


@dataclass(frozen=True)
class _Group:
    """Calls that can be one.

    Attributes:
        members: The calls.
        ahead: What stands between them and goes ahead.
        behind: What has to come behind.
        end: How many lines all that is.
    """

    members: tuple[Line, ...]
    ahead: tuple[Line, ...]
    behind: tuple[Line, ...]
    end: int


def _find(lines: Sequence[Line], wide: int, axis: _Axis) -> _Group:
    """The group that begins with the first line; that line alone where it has no other member."""
    first = lines[0].step
    found = _Group((lines[0],), (), (), 1)
    if not isinstance(first, KernelCall):
        return found
    members, ahead, behind = [lines[0]], list[Line](), list[Line]()
    late = set(writes(first)) - {RESULT}  # slots that are not what the lines behind expect, until the call is made
    channels: set[str] = set()  # on which something comes behind it: their order stays
    for end, line in enumerate(lines[1:], 2):
        if len(members) == wide:
            break
        step, used = line.step, _channels(line.step)
        # Another rank may send what is merged here only once it has got what this one sends behind the call.
        waits = bool(behind) and isinstance(step, MergeCall)
        needs = waits or not late.isdisjoint(reads(step)) or not channels.isdisjoint(used)
        if not needs and not axis.allows(first, step):
            ahead.append(line)
            continue
        late |= set(writes(step)) - {RESULT}  # what is added to the result may be added in any order
        if needs:
            behind.append(line)
            channels |= used
        else:
            members.append(line)
            found = _Group(tuple(members), tuple(ahead), tuple(behind), end)
    return found


def _channels(step: Step) -> set[str]:
    return {transfer.channel for transfer in step.transfers} if isinstance(step, Post) else set()
