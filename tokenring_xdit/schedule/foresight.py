"""What a rank's program tells in advance.

That is: when a buffer is free, which receives can be posted early, and which keys can be attended together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from tokenring_xdit.schedule.plan import Action, Attend, Block, Channel, Exchange, Kind, Mask, Program

__all__ = ["Meeting", "last_uses", "meetings", "next_receives", "used_blocks"]


@dataclass(frozen=True)
class Meeting:
    """One call of the attention kernel: queries meet a block of keys, or several that have been joined.

    Attributes:
        attends: What that is in the plan.
        keys: What the queries meet, of their heads.
        last: Whether no later one meets the same keys joined.
    """

    attends: tuple[Attend, ...]
    keys: tuple[Block, ...]
    last: bool = True

    def __str__(self) -> str:
        return f"{self.attends[0].q} to {', '.join(str(attend.kv) for attend in self.attends)}"


def meetings(program: Program) -> dict[int, Meeting]:
    """The calls of the kernel that carry out a program, each by the index of its last action.

    A kernel is faster the more keys it sees, and leaves less to merge. So keys that several blocks of queries meet, one
    such block after the other, are joined once. Only keys that have been met before are joined, so that nothing waits
    for it (unless the queries that met them are empty). Under a causal mask hardly two blocks meet the same keys.
    """
    runs = _runs(program)
    shared = Counter(keys for _, _, keys in runs)
    found: dict[int, Meeting] = {}
    later: set[tuple[Block, ...]] = set()
    for first, attends, keys in reversed(runs):
        if len(keys) > 1 and shared[keys] > 1:
            found[first + len(attends) - 1] = Meeting(attends, keys, keys not in later)
            later.add(keys)
        else:
            found.update((first + at, Meeting((attends[at],), (key,))) for at, key in enumerate(keys))
    return found


def _runs(program: Program) -> list[tuple[int, tuple[Attend, ...], tuple[Block, ...]]]:
    """What could be one call, as long as can be: its first index, its actions, and the keys."""
    runs: list[tuple[int, list[Attend], list[Block]]] = []
    met: set[Block] = set()
    open_for: Block | None = None  # queries that may go on with the last run
    for index, action in enumerate(program):
        if not isinstance(action, Attend):
            open_for = None
            continue
        queries, keys = action.narrowed
        joinable = queries if keys in met and action.mask is Mask.FULL else None
        if joinable is None or joinable != open_for:
            runs.append((index, [], []))
        runs[-1][1].append(action)
        runs[-1][2].append(keys)
        open_for = joinable
        met.add(keys)
    return [(first, tuple(attends), tuple(keys)) for first, attends, keys in runs]


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
