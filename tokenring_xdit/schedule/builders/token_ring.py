"""TokenRing as published (arXiv 2412.20501, section 3).

Keys and values stay. Queries travel forward, one neighbour a step; what they gathered at a rank goes
straight back to their owner, with its log-sum-exp, while the next block is attended. Queries and
outputs thus fill both directions of a full-duplex link.
"""

from __future__ import annotations

from tokenring_xdit.schedule.plan import (
    Action,
    Attend,
    Channel,
    Exchange,
    Mask,
    Merge,
    Program,
    Schedule,
    Transfer,
    kv_block,
    o_block,
    q_block,
)

__all__ = ["token_ring"]

_MERGE_LAG = 2
"""Steps between posting the receive of a partial and merging it.

Merging at once would wait for a transfer that has just been posted and so delay the next step's
queries; merging all at the end would keep one receive buffer a rank. Two steps bound the buffers and
leave a whole attention for the transfer to hide behind.
"""


def token_ring(world_size: int, mask: Mask = Mask.FULL) -> Schedule:
    """Build the plan.

    Args:
        world_size: Number of ranks.
        mask: ``CAUSAL`` leaves out pairs of a query block and a later key block: queries travel past
            such a rank without being attended.
    """
    programs = tuple(_program(rank, world_size, mask) for rank in range(world_size))
    return Schedule("token_ring", world_size, programs, mask)


def _program(rank: int, world_size: int, mask: Mask) -> Program:
    after, before = (rank + 1) % world_size, (rank - 1) % world_size
    actions: list[Action] = []
    coming_home: list[tuple[int, Merge]] = []

    for step in range(world_size):
        visitor = (rank - step) % world_size  # whose queries are here at this step
        if step < world_size - 1:
            coming = (visitor - 1) % world_size
            q_recvs = (Transfer(q_block(coming), before),) if _travels(coming, mask) else ()
            q_sends = (Transfer(q_block(visitor), after),) if _travels(visitor, mask) else ()
            if q_recvs or q_sends:
                actions.append(Exchange(Channel.Q, q_recvs, q_sends))
        if mask.asks(visitor, rank):
            actions.append(Attend(q_block(visitor), kv_block(rank), mask.of_pair(visitor, rank)))
        if step > 0:
            host = (rank + step) % world_size  # where this rank's own queries are
            recvs = (Transfer(o_block(rank, host), host),) if mask.asks(rank, host) else ()
            sends = (Transfer(o_block(visitor, rank), visitor),) if mask.asks(visitor, rank) else ()
            if recvs or sends:
                actions.append(Exchange(Channel.O, recvs, sends))
            coming_home.extend((step, Merge(t.block)) for t in recvs)
        while coming_home and coming_home[0][0] <= step - _MERGE_LAG:
            actions.append(coming_home.pop(0)[1])

    actions.extend(merge for _, merge in coming_home)
    return tuple(actions)


def _travels(q_owner: int, mask: Mask) -> bool:
    """Whether some other rank's keys are asked for; under a causal mask rank 0 has all it may see."""
    return mask is Mask.FULL or q_owner > 0
