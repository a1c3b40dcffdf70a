"""Exchanges that all ranks make alike, with all of them, are collectives: one call of the transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import Collective, Pack, Post, Recv, Send, Step
from tokenring_xdit.schedule.plan import Channel

__all__ = ["recognise"]


def recognise(drafts: Sequence[Draft]) -> tuple[Draft, ...]:
    """Make collectives of exchanges, channel by channel, where all exchanges of a channel are some.

    What is posted in a row on one channel is one exchange then.

    Args:
        drafts: Of all ranks.
    """
    found = tuple(drafts)
    for channel in Channel:
        tried = [_in_one(draft, channel.value) for draft in found]
        posts = [[line.step for line in draft.lines if _is_on(line, channel.value)] for draft in tried]
        if len({len(of_rank) for of_rank in posts}) > 1:
            continue
        kinds = [
            _kind([post for post in together if isinstance(post, Post)], tried) for together in zip(*posts, strict=True)
        ]
        if kinds and all(kinds):
            found = tuple(_marked(draft, channel.value, kinds) for draft in tried)
    return found


def _is_on(line: Line, channel: str) -> bool:
    return isinstance(line.step, Post) and any(t.channel == channel for t in line.step.transfers)


def _in_one(draft: Draft, channel: str) -> Draft:
    """Put exchanges of a channel together between which nothing stands but what they send."""
    lines: list[Line] = []
    last: int | None = None  # where the exchange stands that may take in the next one
    for index, step in draft.lines:
        on_it = isinstance(step, Post) and _is_on(Line(index, step), channel)
        if on_it and last is not None:
            lines.append(Line(index, _both(lines.pop(last).step, step)))
        else:
            lines.append(Line(index, step))
        if on_it:
            last = len(lines) - 1
        elif not isinstance(step, Pack):
            last = None
    return replace(draft, lines=tuple(lines))


def _both(first: Step, other: Step) -> Post:
    assert isinstance(first, Post)
    assert isinstance(other, Post)
    payloads = tuple(dict.fromkeys((*first.payloads, *other.payloads)))

    def sends(post: Post) -> list[Send]:
        return [send._replace(payload=payloads.index(post.payloads[send.payload])) for send in post.sends]

    return Post(
        (*first.recvs, *other.recvs),
        payloads,
        (*sends(first), *sends(other)),
        first.messages + other.messages,
    )


def _kind(posts: Sequence[Post], drafts: Sequence[Draft]) -> Collective | None:
    """What the exchanges of all ranks are together."""
    ranks = range(len(posts))
    for rank, post in enumerate(posts):
        others = [peer for peer in ranks if peer != rank]
        if sorted(r.peer for r in post.recvs) != others or sorted(s.peer for s in post.sends) != others:
            return None
    distinct = {len(post.payloads) for post in posts}
    if distinct == {1}:
        sizes = {_slot(draft, recv) for draft, post in zip(drafts, posts, strict=True) for recv in post.recvs}
        return Collective.ALL_GATHER if len(sizes) == 1 else None
    return Collective.ALL_TO_ALL if distinct == {len(posts) - 1} else None


def _slot(draft: Draft, recv: Recv) -> tuple[object, ...]:
    return draft.slots[recv.slot]


def _marked(draft: Draft, channel: str, kinds: Sequence[Collective | None]) -> Draft:
    """The draft with its exchanges of a channel marked, transfers in the order of their peers."""
    left = iter(kinds)
    lines = []
    for line in draft.lines:
        step = line.step
        if isinstance(step, Post) and _is_on(line, channel):
            recvs = tuple(sorted(step.recvs, key=lambda recv: recv.peer))
            sends = tuple(sorted(step.sends, key=lambda send: send.peer))
            step = step._replace(recvs=recvs, sends=sends, collective=next(left))
        lines.append(Line(line.action, step))
    return replace(draft, lines=tuple(lines))
