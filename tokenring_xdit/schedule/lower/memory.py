"""Faults of how a program uses memory that is part of other memory, found without running it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tokenring_xdit.schedule.lower.collectives import is_collective
from tokenring_xdit.schedule.lower.program import (
    RESULT,
    Collective,
    Concat,
    Done,
    KernelCall,
    Post,
    RankProgram,
    Slot,
    SlotForm,
    reads,
    writes,
)

__all__ = ["faults", "faults_between"]

_Fault = tuple[int | None, str]
"""Index of the action, and what is wrong."""


def faults(program: RankProgram) -> Iterator[_Fault]:
    """What is wrong with slots inside of slots, outputs, and collectives.

    A slot inside of another one, and that one, are written once: by a receive, and by the concatenation of all that is
    inside of it, each part in its place, or by nothing where only its parts are used.
    """
    slots = program.slots
    received = Counter(slot for _, step in program.steps if isinstance(step, Post) for slot in writes(step))
    outputs = Counter(step.output for _, step in program.steps if isinstance(step, KernelCall) and step.output >= 0)
    written = Counter(slot for _, step in program.steps for slot in writes(step))
    used = {slot for _, step in program.steps for slot in (*reads(step), *writes(step))}
    inside: dict[int, list[int]] = defaultdict(list)
    for number, slot in enumerate(slots):
        if slot.inside >= 0:
            inside[slot.inside].append(number)
    if program.fleeting and (inside or outputs or _collectives(program)):
        yield None, "keeps what has memory for an exchange only"
    posts = sum(isinstance(step, Post) for _, step in program.steps)
    done = sorted(step.post for _, step in program.steps if isinstance(step, Done))
    if done != [*range(posts if program.fleeting else 0)]:
        yield None, "gives back memory of other exchanges than there are"
    if (inside or outputs) and not program.token_major:
        yield None, "lays blocks inside of each other in memory that is not token-major"
    for number in outputs:
        if number >= len(slots) or (outputs[number], written[number], slots[number].inside) != (1, 1, -1):
            yield None, f"writes the output in slot {number} more than once"
    for number, children in inside.items():
        if not _fit(slots, number, children):
            yield None, f"lays slots {children} inside of slot {number}, which has no room for them"
            return
        if any((received[child], written[child]) != (1, 1) for child in children):
            yield None, f"writes slots {children} inside of slot {number} more than once"
        if number in used and (written[number] != 1 or received[number] or outputs[number]):
            yield None, f"writes slot {number} more than once, in which others lie"
    for index, step in program.steps:
        if isinstance(step, Concat) and not _in_place(slots, step, inside[step.slot]):
            yield index, f"puts together in slot {step.slot} what lies elsewhere in it"
        if isinstance(step, Post) and not _own_in_place(slots, step):
            yield index, f"says that its own is in slot {step.own}, where no all-gather leaves it"
        if isinstance(step, Post) and step.collective is not None and not is_collective(step.collective, step, slots):
            yield index, f"calls an {step.collective.value}, for which its slots do not lie as they should"


def faults_between(programs: Sequence[RankProgram]) -> Iterator[tuple[int, str]]:
    """Ranks that lay out memory in other ways than the first one, or call other collectives; with their numbers."""
    of_first = _collectives(programs[0])
    for rank, program in enumerate(programs):
        if program.token_major != programs[0].token_major:
            yield rank, "lays out its messages in another way than rank 0"
        if _collectives(program) != of_first:
            yield rank, "calls other collectives than rank 0"


def _own_in_place(slots: Sequence[Slot], post: Post) -> bool:
    """Whether what an exchange says of this rank's own share is what an all-gather does."""
    if post.own < 0:
        return True
    if post.collective is not Collective.ALL_GATHER or not post.recvs or len(post.payloads) != 1:
        return False
    like = slots[post.recvs[0].slot]
    rank = next(rank for rank in range(len(post.recvs) + 1) if rank not in {recv.peer for recv in post.recvs})
    there = post.own < len(slots) and slots[post.own] == like._replace(first=rank * like.shape[2])
    return there and slots[post.payloads[0].slot].part(post.payloads[0].cut).shape == like.shape


def _collectives(program: RankProgram) -> list[tuple[str, str]]:
    posts = [step for _, step in program.steps if isinstance(step, Post)]
    return [(post.channel, post.collective.value) for post in posts if post.collective is not None]


def _fit(slots: Sequence[Slot], number: int, children: Sequence[int]) -> bool:
    """Whether slots lie inside of another one, of the same form, and apart."""
    if not RESULT < number < len(slots) or slots[number].inside >= 0:
        return False
    form, (batch, heads, tokens, head_dim), *_ = slots[number]
    end = 0
    for child in sorted((slots[child] for child in children), key=lambda slot: slot.first):
        child_tokens = child.shape[2]
        like = (child.form, child.shape) == (form, (batch, heads, child_tokens, head_dim))
        if not like or child.first < end or form is SlotForm.PARTIAL:
            return False
        end = child.first + child_tokens
    return end <= tokens and min(children) > RESULT


def _in_place(slots: Sequence[Slot], concat: Concat, children: Sequence[int]) -> bool:
    """Whether all that lies inside of a slot is put together there, where it lies."""
    at, found = 0, []
    for part in concat.parts:
        slot = slots[part.slot]
        if part.slot in children:
            if part.cut is not None or slot.first != at:
                return False
            found.append(part.slot)
        at += slot.part(part.cut).shape[2]
    return sorted(found) == sorted(children)
