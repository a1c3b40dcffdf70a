"""TokenRing as published (arXiv 2412.20501, section 3)."""

from __future__ import annotations

from tokenring_xdit.schedule.algorithm import Guess, Look, Published, algorithm
from tokenring_xdit.schedule.builders.merge_queue import MergeQueue
from tokenring_xdit.schedule.plan import (
    Action,
    Attend,
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

__all__ = ["token_ring"]


@algorithm(
    inside_nodes=True,
    many_ranks=True,
    guess=Guess(4),
    published=Published.TOKEN_RING,
    look=Look("orange", "circle"),
)
def token_ring(world_size: int, *, chunks: int = 1) -> Schedule:
    """TokenRing as published: queries one way round, partial outputs straight home.

    Keys and values stay. What a visiting block of queries gathered at a rank goes back to its owner,
    with its log-sum-exp, while the next block is attended. Queries and outputs thus fill both
    directions of a full-duplex link.

    Args:
        world_size: Number of ranks.
        chunks: Pieces that a block of queries travels in; each is passed on, and returned, on its own.
    """
    programs = tuple(_program(rank, world_size, cut(chunks)) for rank in range(world_size))
    return Schedule("token_ring", world_size, programs)


def _program(rank: int, world_size: int, pieces: tuple[Piece, ...]) -> Program:
    after, before = (rank + 1) % world_size, (rank - 1) % world_size
    actions: list[Action] = []
    returns = MergeQueue()

    for step in range(world_size):
        visitor = (rank - step) % world_size  # whose queries are here at this step
        host = (rank + step) % world_size  # where this rank's own queries are
        for piece in pieces:
            if step < world_size - 1:
                coming, going = q_block((visitor - 1) % world_size, tokens=piece), q_block(visitor, tokens=piece)
                actions.append(Exchange(Channel.Q, (Transfer(coming, before),), (Transfer(going, after),)))
            if step > 0:
                home, away = o_block(rank, host, tokens=piece), o_block(visitor, rank, tokens=piece)
                actions.append(Attend(q_block(visitor, tokens=piece), kv_block(rank)))
                actions.append(Exchange(Channel.O, (Transfer(home, host),), (Transfer(away, visitor),)))
                returns.expect(step, home)
        if step == 0:
            actions.append(Attend(q_block(rank), kv_block(rank)))
        actions.extend(returns.due(step))

    return (*actions, *returns.rest())
