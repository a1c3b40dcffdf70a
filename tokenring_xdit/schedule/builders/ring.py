"""Ring attention, pass-KV: the baseline (Liu et al., arXiv 2310.01889).

Queries stay. Keys and values travel one way round, one neighbour a step, and every block that passes
by is attended, so a step's transfer hides behind the attention of the block before it.
"""

from __future__ import annotations

from tokenring_xdit.schedule.plan import (
    Action,
    Attend,
    Channel,
    Exchange,
    Mask,
    Program,
    Schedule,
    Transfer,
    kv_block,
    q_block,
)

__all__ = ["ring"]


def ring(world_size: int, mask: Mask = Mask.FULL) -> Schedule:
    """Build the plan.

    Args:
        world_size: Number of ranks.
        mask: ``CAUSAL`` leaves out pairs of a query block and a later key block.
    """
    programs = tuple(_program(rank, world_size, mask) for rank in range(world_size))
    return Schedule("ring", world_size, programs, mask)


def _program(rank: int, world_size: int, mask: Mask) -> Program:
    after, before = (rank + 1) % world_size, (rank - 1) % world_size
    actions: list[Action] = []
    for step in range(world_size):
        held = (rank - step) % world_size  # whose keys are here at this step
        if step < world_size - 1:
            coming = (held - 1) % world_size
            recvs = (Transfer(kv_block(coming), before),) if mask.asks(rank, coming) else ()
            sends = (Transfer(kv_block(held), after),) if mask.asks(after, held) else ()
            if recvs or sends:
                actions.append(Exchange(Channel.KV, recvs, sends))
        if mask.asks(rank, held):
            actions.append(Attend(q_block(rank), kv_block(held), mask.of_pair(rank, held)))
    return tuple(actions)
