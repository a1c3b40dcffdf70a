"""What a rank's program tells in advance: when a buffer is free, and which receives can be posted early."""

from __future__ import annotations

from collections import defaultdict

from tokenring_xdit.schedule.plan import Action, Attend, Block, Channel, Exchange, Kind, Program

__all__ = ["last_uses", "next_receives", "used_blocks"]


def last_uses(program: Program) -> dict[int, list[Block]]:
    """For each action of a program, the received blocks that nothing after it uses."""
    received: dict[tuple[Kind, int], dict[Block, int]] = defaultdict(dict)  # and the action that used it last
    for index, action in enumerate(program):
        for used in used_blocks(action):
            for block in received[used.kind, used.owner]:
                if block.covers(used):
                    received[used.kind, used.owner][block] = index
        if isinstance(action, Exchange):
            for t in action.recvs:
                received[t.block.kind, t.block.owner][t.block] = index
    expiring: dict[int, list[Block]] = defaultdict(list)
    for block, index in ((block, index) for blocks in received.values() for block, index in blocks.items()):
        expiring[index].append(block)
    return expiring


def used_blocks(action: Action) -> list[Block]:
    """What has to be here before an action; partial outputs that are sent were made here."""
    if isinstance(action, Exchange):
        return [t.block for t in action.sends if t.block.kind is not Kind.O]
    if isinstance(action, Attend):
        return [action.q, action.kv]
    return [action.partial]


def next_receives(program: Program) -> dict[int, list[Exchange]]:
    """For each exchange of a program, the later ones whose receives can be posted right behind it.

    That is the next one on its channel, so that order is kept, and behind the first exchange the first
    one of every other channel.
    """
    behind: dict[int, list[Exchange]] = defaultdict(list)
    latest: dict[Channel, int] = {}
    first: int | None = None
    for index, action in enumerate(program):
        if not isinstance(action, Exchange):
            continue
        if first is None:
            first = index
        else:
            behind[latest.get(action.channel, first)].append(action)
        latest[action.channel] = index
    return behind
