"""Straight to every peer: all links of a full mesh at once.

TokenRing's returns already go straight home (arXiv 2412.20501, section 3, on a fully connected
topology); here what they answer goes straight as well, so that no link idles and nothing is passed on.
"""

from __future__ import annotations

from tokenring_xdit.schedule.algorithm import Guess, Look, algorithm
from tokenring_xdit.schedule.plan import (
    Action,
    Attend,
    Channel,
    Exchange,
    Merge,
    Piece,
    Program,
    Schedule,
    Transfer,
    cut,
    kv_block,
    o_block,
    q_block,
)

__all__ = ["direct", "direct_kv"]


@algorithm(inside_nodes=True, guess=Guess(2, "chunks=4"), look=Look("teal", "triangle-up"))
def direct(world_size: int, *, chunks: int = 1) -> Schedule:
    """Queries straight to every peer, partial outputs straight back.

    All queries are posted at the start. The first piece of every peer is attended before the second
    of any, so that all links carry returns as early as they can.

    Args:
        world_size: Number of ranks.
        chunks: Pieces that a block of queries travels, is attended and is returned in.
    """
    programs = tuple(_pass_q(rank, world_size, cut(chunks)) for rank in range(world_size))
    return Schedule("direct", world_size, programs)


def _pass_q(rank: int, world_size: int, pieces: tuple[Piece, ...]) -> Program:
    visitors, hosts = _nearest_first(rank, world_size)
    # With pieces, some of the own block is kept for the wait for the last return.
    parts = cut(2 if len(pieces) > 1 and hosts else 1)
    own = [Attend(q_block(rank, tokens=part), kv_block(rank)) for part in parts]
    actions: list[Action] = []
    merges: list[Action] = []
    if hosts:
        for piece in pieces:
            recvs = tuple(Transfer(q_block(peer, tokens=piece), peer) for peer in visitors)
            sends = tuple(Transfer(q_block(rank, tokens=piece), peer) for peer in hosts)
            actions.append(Exchange(Channel.Q, recvs, sends))
    actions.append(own[0])
    for piece in pieces:
        for visitor, host in zip(visitors, hosts, strict=True):
            home, away = o_block(rank, host, tokens=piece), o_block(visitor, rank, tokens=piece)
            actions.append(Attend(q_block(visitor, tokens=piece), kv_block(rank)))
            actions.append(Exchange(Channel.O, (Transfer(home, host),), (Transfer(away, visitor),)))
            merges.append(Merge(home))
    return (*actions, *own[1:], *merges)


@algorithm(inside_nodes=True, look=Look("teal", "triangle-down", "dash"))
def direct_kv(world_size: int, *, chunks: int = 1) -> Schedule:
    """Keys and values straight to every peer; queries stay.

    Nothing has to come back: less waiting than ``direct`` for twice the bytes on the way out, and the
    smaller message where query heads share keys.

    Args:
        world_size: Number of ranks.
        chunks: Pieces that a block of keys travels and is attended in.
    """
    programs = tuple(_pass_kv(rank, world_size, cut(chunks)) for rank in range(world_size))
    return Schedule("direct_kv", world_size, programs)


def _pass_kv(rank: int, world_size: int, pieces: tuple[Piece, ...]) -> Program:
    sources, targets = _nearest_first(rank, world_size)
    actions: list[Action] = []
    if targets:
        for piece in pieces:
            recvs = tuple(Transfer(kv_block(peer, tokens=piece), peer) for peer in sources)
            sends = tuple(Transfer(kv_block(rank, tokens=piece), peer) for peer in targets)
            actions.append(Exchange(Channel.KV, recvs, sends))
    actions.append(Attend(q_block(rank), kv_block(rank)))
    for piece in pieces:
        actions.extend(Attend(q_block(rank), kv_block(peer, tokens=piece)) for peer in sources)
    return tuple(actions)


def _nearest_first(rank: int, world_size: int) -> tuple[list[int], list[int]]:
    """Peers before and behind this rank on a ring: at each distance every rank serves another one."""
    distances = range(1, world_size)
    return [(rank - d) % world_size for d in distances], [(rank + d) % world_size for d in distances]
