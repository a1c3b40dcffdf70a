"""Both ways round a ring at once: both directions of every link, and each block goes half as far.

Half the heads travel forward and half back. Where the number of heads is odd whole blocks travel, each
as far as half-way round in either direction. The bidirectional counterpart of Ring attention
(Liu et al., arXiv 2310.01889), which leaves one direction of each link idle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tokenring_xdit.schedule.algorithm import Guess, Look, algorithm
from tokenring_xdit.schedule.builders.merge_queue import MergeQueue
from tokenring_xdit.schedule.plan import (
    WHOLE,
    Action,
    Attend,
    Block,
    Channel,
    Exchange,
    Piece,
    Program,
    Schedule,
    Transfer,
    cut,
    kv_block,
    o_block,
    q_block,
)

__all__ = ["bidirectional", "bidirectional_q"]


@dataclass(frozen=True)
class _Lane:
    """What travels one way round.

    Attributes:
        heads: Which heads of every block.
        way: 1 forward, -1 back.
        steps: How many neighbours a block is passed on to.
    """

    heads: Piece
    way: int
    steps: int


@algorithm(cuts_heads=True, inside_nodes=True, guess=Guess(3), look=Look("purple", "x"))
def bidirectional(world_size: int, heads: int = 0, *, chunks: int = 1) -> Schedule:
    """Keys and values both ways round, half the heads each; queries stay.

    Args:
        world_size: Number of ranks.
        heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        chunks: Pieces of tokens that a travelling block is cut in.
    """
    lanes = _lanes(world_size, heads)
    programs = tuple(_pass_kv(rank, world_size, lanes, cut(chunks)) for rank in range(world_size))
    return Schedule("bidirectional", world_size, programs)


def _pass_kv(rank: int, world_size: int, lanes: tuple[_Lane, ...], pieces: tuple[Piece, ...]) -> Program:
    actions: list[Action] = []
    for step in range(world_size):
        for piece in pieces:
            actions += _passed_on(rank, world_size, lanes, step, Channel.KV, partial(kv_block, tokens=piece))
            for lane in (lane for lane in lanes if 0 < step <= lane.steps):
                held = (rank - lane.way * step) % world_size
                actions.append(Attend(q_block(rank), kv_block(held, tokens=piece, heads=lane.heads)))
        if step == 0:
            actions.append(Attend(q_block(rank), kv_block(rank)))
    return tuple(actions)


@algorithm(cuts_heads=True, inside_nodes=True, look=Look("purple", "hexagon", "dash"))
def bidirectional_q(world_size: int, heads: int = 0, *, chunks: int = 1) -> Schedule:
    """TokenRing both ways round: queries of half the heads each, partial outputs straight home.

    Args:
        world_size: Number of ranks.
        heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        chunks: Pieces of tokens that a block of queries travels and is returned in.
    """
    lanes = _lanes(world_size, heads)
    programs = tuple(_pass_q(rank, world_size, lanes, cut(chunks)) for rank in range(world_size))
    return Schedule("bidirectional_q", world_size, programs)


def _pass_q(rank: int, world_size: int, lanes: tuple[_Lane, ...], pieces: tuple[Piece, ...]) -> Program:
    actions: list[Action] = []
    returns = MergeQueue()
    for step in range(world_size):
        for piece in pieces:
            actions += _passed_on(rank, world_size, lanes, step, Channel.Q, partial(q_block, tokens=piece))
            for lane in (lane for lane in lanes if 0 < step <= lane.steps):
                visitor, host = (rank - lane.way * step) % world_size, (rank + lane.way * step) % world_size
                home = o_block(rank, host, tokens=piece, heads=lane.heads)
                away = o_block(visitor, rank, tokens=piece, heads=lane.heads)
                actions.append(Attend(q_block(visitor, tokens=piece, heads=lane.heads), kv_block(rank)))
                actions.append(Exchange(Channel.O, (Transfer(home, host),), (Transfer(away, visitor),)))
                returns.expect(step, home)
        if step == 0:
            actions.append(Attend(q_block(rank), kv_block(rank)))
        actions.extend(returns.due(step))
    return (*actions, *returns.rest())


def _passed_on(
    rank: int, world_size: int, lanes: tuple[_Lane, ...], step: int, channel: Channel, block: Callable[..., Block]
) -> list[Exchange]:
    """What a rank hands on in both ways at a step, and gets in its place; nothing at the last one."""
    recvs, sends = [], []
    for lane in (lane for lane in lanes if step < lane.steps):
        after, before = (rank + lane.way) % world_size, (rank - lane.way) % world_size
        held = (rank - lane.way * step) % world_size  # whose block this lane brought here
        recvs.append(Transfer(block((held - lane.way) % world_size, heads=lane.heads), before))
        sends.append(Transfer(block(held, heads=lane.heads), after))
    return [Exchange(channel, tuple(recvs), tuple(sends))] if recvs else []


def _lanes(world_size: int, heads: int) -> tuple[_Lane, ...]:
    others = world_size - 1
    if heads % 2 == 0:
        return _Lane(Piece(0, 2), 1, others), _Lane(Piece(1, 2), -1, others)
    return _Lane(WHOLE, 1, (others + 1) // 2), _Lane(WHOLE, -1, others // 2)
