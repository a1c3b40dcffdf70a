"""Receives posted ahead of their turn, which spares their senders a round trip where transfers are independent."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import Post, Recv

__all__ = ["prefetch"]


def prefetch(draft: Draft) -> Draft:
    """Post receives together with an exchange before theirs.

    That is the one before it on its channel, so that order is kept, and the first of all for the first one of every
    other channel. Nothing is left of an exchange that only receives but its place. Collectives stay what they are.
    """
    behind: dict[int, list[Recv]] = defaultdict(list)  # by the line that takes them in
    moved: set[int] = set()
    latest: dict[str, int] = {}
    first: int | None = None
    for at, line in enumerate(draft.lines):
        if not isinstance(line.step, Post):
            continue
        channel = line.step.channel
        if line.step.collective is None:
            if first is None:
                first = at
            else:
                behind[latest.get(channel, first)] += line.step.recvs
                moved.add(at)
            latest[channel] = at
    lines = []
    for at, line in enumerate(draft.lines):
        step = line.step
        if isinstance(step, Post) and step.collective is None:
            own = () if at in moved else step.recvs
            step = step._replace(recvs=(*own, *behind[at]))
        lines.append(Line(line.action, step))
    return replace(draft, lines=tuple(lines))
