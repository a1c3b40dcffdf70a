"""Exchanges that all ranks make alike, with all of them, are collectives: one call of the transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import Collective, Concat, Post, Slot, SlotForm, View
from tokenring_xdit.schedule.plan import Channel

__all__ = ["is_collective", "recognise"]


def recognise(drafts: Sequence[Draft]) -> tuple[Draft, ...]:
    """Make collectives of exchanges, channel by channel, where all exchanges of a channel are some.

    Args:
        drafts: Drafts of all ranks.
    """
    found = tuple(drafts)
    for channel in Channel:
        posts = [[line.step for line in draft.lines if _is_on(line, channel.value)] for draft in found]
        if len({len(of_rank) for of_rank in posts}) > 1:
            continue
        kinds = [
            _kind([_sorted(post) for post in together if isinstance(post, Post)], found)
            for together in zip(*posts, strict=True)
        ]
        if kinds and all(kinds):
            found = tuple(_marked(draft, channel.value, kinds) for draft in found)
    return tuple(map(_with_own, found))


def is_collective(kind: Collective, post: Post, slots: Sequence[Slot]) -> bool:
    """Whether what comes lies in one slot, by rank, with room for this rank's own; of an all-to-all what goes, too.

    Args:
        kind: What the exchange would be.
        post: Its transfers in the order of their peers, with one message from each and to each.
        slots: Slots of the rank.
    """
    into = {slots[recv.slot].inside for recv in post.recvs}
    coming = {recv.peer: _rows(slots[recv.slot].first, slots[recv.slot]) for recv in post.recvs}
    if len(into) != 1 or min(into) < 0 or not _fill(coming, slots[min(into)]):
        return False
    if kind is Collective.ALL_GATHER:
        tokens = {last - first for first, last in coming.values()}
        alike = len(tokens) == 1 and slots[min(into)].shape[2] == tokens.pop() * (len(coming) + 1)
        return alike and len(post.payloads) == 1
    going = {}
    for send in post.sends:
        number, cut = post.payloads[send.payload]
        if cut is None or cut[:2] != (0, slots[number].shape[1]) or slots[number].form is not SlotForm.OUTPUT:
            return False
        going[send.peer] = cut[2:]
    sent, received = slots[post.payloads[0].slot], slots[min(into)]
    alone = len({view.slot for view in post.payloads}) == 1 and _fill(going, sent)
    return alone and _own_rows(going, sent) == _own_rows(coming, received)


def _rows(first: int, slot: Slot) -> tuple[int, int]:
    return first, first + slot.shape[2]


def _fill(rows: Mapping[int, tuple[int, int]], slot: Slot) -> bool:
    """Whether rows of the other ranks fill a slot, in their order, up to those of this rank in their place."""
    ranks = range(len(rows) + 1)
    own = [rank for rank in ranks if rank not in rows]
    if len(own) != 1:
        return False
    at = 0
    for rank in ranks:
        if rank == own[0]:
            at += _own_rows(rows, slot)
        elif rows[rank][0] != at:
            return False
        else:
            at = rows[rank][1]
    return at == slot.shape[2]


def _own_rows(rows: Mapping[int, tuple[int, int]], slot: Slot) -> int:
    """What the other ranks leave of a slot, which a collective takes for this rank's own share."""
    return slot.shape[2] - sum(last - first for first, last in rows.values())


def _is_on(line: Line, channel: str) -> bool:
    return isinstance(line.step, Post) and any(t.channel == channel for t in line.step.transfers)


def _sorted(post: Post) -> Post:
    """The exchange with its transfers in the order of their peers."""
    recvs = tuple(sorted(post.recvs, key=lambda recv: recv.peer))
    sends = tuple(sorted(post.sends, key=lambda send: send.peer))
    return post._replace(recvs=recvs, sends=sends)


def _kind(posts: Sequence[Post], drafts: Sequence[Draft]) -> Collective | None:
    """What the exchanges of all ranks are together."""
    ranks = range(len(posts))
    for rank, post in enumerate(posts):
        others = [peer for peer in ranks if peer != rank]
        if [recv.peer for recv in post.recvs] != others or [send.peer for send in post.sends] != others:
            return None
    slots = {draft.slots[view.slot] for draft, post in zip(drafts, posts, strict=True) for view in post.payloads}
    outputs = all(slot.form is SlotForm.OUTPUT for slot in slots)
    kind = Collective.ALL_TO_ALL if outputs else Collective.ALL_GATHER
    fits = all(is_collective(kind, post, draft.slots) for draft, post in zip(drafts, posts, strict=True))
    return kind if fits else None


def _with_own(draft: Draft) -> Draft:
    """The draft in which an all-gather's own share is read where it leaves it, instead of being put there again."""
    slots, lines = list(draft.slots), list(draft.lines)
    for at, line in enumerate(draft.lines):
        step = line.step
        if not isinstance(step, Post) or step.collective is not Collective.ALL_GATHER:
            continue
        memory = slots[step.recvs[0].slot].inside
        for behind, other in enumerate(draft.lines):
            concat = other.step
            if isinstance(concat, Concat) and concat.slot == memory and step.payloads[0] in concat.parts:
                place = concat.parts.index(step.payloads[0])
                first = sum(slots[view.slot].part(view.cut).shape[2] for view in concat.parts[:place])
                own = View(len(slots))
                slots.append(slots[step.recvs[0].slot]._replace(first=first))
                lines[at] = Line(line.action, step._replace(own=own.slot))
                parts = (*concat.parts[:place], own, *concat.parts[place + 1 :])
                lines[behind] = Line(other.action, concat._replace(parts=parts))
    return Draft(tuple(slots), tuple(lines))


def _marked(draft: Draft, channel: str, kinds: Sequence[Collective | None]) -> Draft:
    """The draft with its exchanges of a channel marked."""
    left = iter(kinds)
    lines = []
    for line in draft.lines:
        step = line.step
        if isinstance(step, Post) and _is_on(line, channel):
            form = draft.slots[step.payloads[0].slot].form
            step = _sorted(step)._replace(collective=next(left), messages=form.tensors)
        lines.append(Line(line.action, step))
    return replace(draft, lines=tuple(lines))
