"""Three phases in place of overlap: all that is attended comes first, straight from its owner; all outputs go last.

For the widest form, in which a rank waits for everything anyway. What a schedule hands on from rank to rank each rank
gets from the owner then, in one exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenring_xdit.schedule.lower.draft import Draft, Line
from tokenring_xdit.schedule.lower.program import OWN_KV, OWN_Q, MergeCall, Post, Recv, Send, View, reads
from tokenring_xdit.schedule.plan import WHOLE, Block, Channel, Kind
from tokenring_xdit.schedule.problem import Problem

__all__ = ["in_phases"]


def in_phases(drafts: Sequence[Draft], problem: Problem) -> tuple[Draft, ...]:
    """Make one exchange of queries and keys, and one of outputs, of all of each kind.

    Args:
        drafts: Drafts of all ranks.
        problem: The shapes.
    """
    first = _Exchange(drafts, frozenset({Kind.Q, Kind.KV}), problem)
    last = _Exchange(drafts, frozenset({Kind.O}), problem)
    made = []
    for rank, draft in enumerate(drafts):
        work = [line for line in draft.lines if not isinstance(line.step, Post | MergeCall)]
        merges = [line for line in draft.lines if isinstance(line.step, MergeCall)]
        made.append(replace(draft, lines=(*first.line(rank), *work, *last.line(rank), *merges)))
    return tuple(made)


class _Exchange:
    """One exchange in place of all those of some kinds of blocks.

    Args:
        drafts: Drafts of all ranks.
        kinds: Kinds of blocks.
        problem: The shapes.
    """

    def __init__(self, drafts: Sequence[Draft], kinds: frozenset[Kind], problem: Problem) -> None:
        self._problem = problem
        self._posts = [[line for line in draft.lines if _carries(line, kinds)] for draft in drafts]
        used = {
            t.channel
            for lines in self._posts
            for line in lines
            if isinstance(line.step, Post)
            for t in line.step.transfers
        }
        self._channel = next((channel.value for channel in Channel if channel.value in used), "")
        self._recvs: list[list[Recv]] = [[] for _ in drafts]
        self._sends: list[list[tuple[int, Block]]] = [[] for _ in drafts]  # peer and block
        self._packed = [
            {send.block: post.payloads[send.payload] for post in _posts(lines) for send in post.sends}
            for lines in self._posts
        ]
        for rank, draft in enumerate(drafts):
            needed = {slot for line in draft.lines if not isinstance(line.step, Post) for slot in reads(line.step)}
            for recv in [recv for post in _posts(self._posts[rank]) for recv in post.recvs]:
                if (
                    recv.block.kind in kinds and recv.slot in needed
                ):  # what only went on to others does not come here any more
                    self._receive(rank, recv)

    def _receive(self, rank: int, recv: Recv) -> None:
        source = recv.block.owner if recv.block.at is None else recv.block.at
        exchange = self._posts[rank][0].action
        self._recvs[rank].append(recv._replace(channel=self._channel, peer=source, exchange=exchange))
        self._sends[source].append((rank, recv.block))

    def line(self, rank: int) -> list[Line]:
        """What a rank posts, if anything."""
        recvs, sends = self._recvs[rank], self._sends[rank]
        if not (recvs or sends):
            return []
        views = {block: self._view(rank, block) for _, block in sends}
        payloads = tuple(dict.fromkeys(views.values()))
        going = tuple(Send(self._channel, peer, payloads.index(views[block]), block) for peer, block in sends)
        messages = sum(block.kind.messages for block in (*(recv.block for recv in recvs), *(b for _, b in sends)))
        return [Line(self._posts[rank][0].action, Post(tuple(recvs), payloads, going, messages))]

    def _view(self, rank: int, block: Block) -> View:
        """Where a block lies that a rank sends: a partial output where it was packed, else in its own tensors."""
        if block.kind is Kind.O:
            return self._packed[rank][block]
        whole = replace(block, tokens=WHOLE, heads=WHOLE)
        area = self._problem.area(block)
        slot = OWN_Q if block.kind is Kind.Q else OWN_KV
        return View(slot) if area == self._problem.area(whole) else View(slot, area)


def _carries(line: Line, kinds: frozenset[Kind]) -> bool:
    return isinstance(line.step, Post) and any(transfer.block.kind in kinds for transfer in line.step.transfers)


def _posts(lines: Sequence[Line]) -> list[Post]:
    return [line.step for line in lines if isinstance(line.step, Post)]
