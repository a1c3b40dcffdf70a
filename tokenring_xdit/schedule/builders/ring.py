"""Ring attention: keys and values travel one way round (Liu et al., arXiv 2310.01889)."""

from __future__ import annotations

from tokenring_xdit.schedule.algorithm import Look, Published, algorithm
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
    q_block,
)

__all__ = ["ring"]


@algorithm(inside_nodes=True, many_ranks=True, published=Published.RING, look=Look("blue", "diamond"))
def ring(world_size: int, *, chunks: int = 1) -> Schedule:
    """Ring attention, pass-KV: keys and values one way round, the baseline.

    Queries stay. Every block of keys and values that passes by is attended, so a step's transfer hides
    behind the attention of the block before it.

    Args:
        world_size: Number of ranks.
        chunks: Pieces that a travelling block is cut in; each is passed on as soon as it is here.
    """
    return Schedule("ring", world_size, tuple(_program(rank, world_size, cut(chunks)) for rank in range(world_size)))


def _program(rank: int, world_size: int, pieces: tuple[Piece, ...]) -> Program:
    after, before = (rank + 1) % world_size, (rank - 1) % world_size
    actions: list[Action] = []
    for step in range(world_size):
        held = (rank - step) % world_size  # whose keys are here at this step
        for piece in pieces:
            if step < world_size - 1:
                coming, going = kv_block((held - 1) % world_size, tokens=piece), kv_block(held, tokens=piece)
                actions.append(Exchange(Channel.KV, (Transfer(coming, before),), (Transfer(going, after),)))
            if step > 0:
                actions.append(Attend(q_block(rank), kv_block(held, tokens=piece)))
        if step == 0:
            actions.append(Attend(q_block(rank), kv_block(rank)))
    return tuple(actions)
