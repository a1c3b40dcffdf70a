"""A second, simpler reading of what a plan computes, to hold against ``verify``.

Every rank has a few numbered tokens and heads, messages are queues without limits, and a partial
output is a table of how often each query met each key. There is no notion of channels that block, of
proofs, of states or of pieces, so it shares no idea with the verifier.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenring_xdit.schedule import Attend, Block, Exchange, Kind, Mask, Schedule

Table = NDArray[np.int64]


def meetings(schedule: Schedule, tokens: list[int], heads: int) -> Table:
    """How often the result counts each key for each query, ``[query, key, head]`` over the whole sequence.

    Args:
        schedule: The plan.
        tokens: Tokens of each rank.
        heads: Number of heads.

    Raises:
        LookupError: The plan gets stuck, or uses what it does not have.
    """
    ranks = range(schedule.world_size)
    links: dict[Any, deque[tuple[Block, Any]]] = defaultdict(deque)
    memory: list[dict[Block, Any]] = [{Block(Kind.Q, r): None, Block(Kind.KV, r): None} for r in ranks]
    expected: list[dict[Block, Any]] = [{} for _ in ranks]
    result = np.zeros((sum(tokens), sum(tokens), heads), dtype=np.int64)
    position = [0 for _ in ranks]

    def where(block: Block) -> tuple[set[int], set[int]]:
        """Which tokens of the whole sequence, and which heads, a block is made of."""
        first, length = sum(tokens[: block.owner]), tokens[block.owner]
        low, high = (length * i // block.tokens.count for i in (block.tokens.index, block.tokens.index + 1))
        left, right = (heads * i // block.heads.count for i in (block.heads.index, block.heads.index + 1))
        return set(range(first + low, first + high)), set(range(left, right))

    def part_of(block: Block, other: Block) -> bool:
        if block.kind is not other.kind or block.owner != other.owner:
            return False
        if block.kind is Kind.O:  # sent and merged as it was built
            return block == other
        return all(inner <= outer for inner, outer in zip(where(block), where(other), strict=True))

    def ready(rank: int, block: Block) -> bool:
        if block in memory[rank]:
            return True
        for link in {expected[rank][b] for b in expected[rank] if part_of(block, b)}:
            while links[link]:
                name, value = links[link].popleft()
                memory[rank][name] = value
        if any(part_of(block, b) for b in memory[rank]):
            return True
        if not any(part_of(block, b) for b in expected[rank]):
            raise LookupError(f"rank {rank} does not have {block}")
        return False

    def step(rank: int) -> bool:
        action = schedule.programs[rank][position[rank]]
        if isinstance(action, Exchange):
            if not all(ready(rank, t.block) for t in action.sends):
                return False
            for t in action.recvs:
                expected[rank][t.block] = (t.peer, rank, action.channel)
            for t in action.sends:
                value = memory[rank][t.block].copy() if t.block.kind is Kind.O else None
                links[rank, t.peer, action.channel].append((t.block, value))
        elif isinstance(action, Attend):
            if not all(ready(rank, block) for block in (action.q, action.kv)):
                return False
            (queries, q_heads), (keys, kv_heads) = where(action.q), where(action.kv)
            met = np.zeros_like(result)
            met[np.ix_(sorted(queries), sorted(keys), sorted(q_heads & kv_heads))] = 1
            if action.mask is Mask.CAUSAL:
                met *= np.tri(len(result), dtype=np.int64)[:, :, None]
            if action.q.owner == rank:
                result[...] += met
            else:
                partial = action.partial(rank)
                memory[rank][partial] = memory[rank].get(partial, 0) + met
        else:
            if not ready(rank, action.partial):
                return False
            result[...] += memory[rank][action.partial]
        position[rank] += 1
        return True

    moving = True
    while moving:
        moving = False
        for rank in ranks:
            while position[rank] < len(schedule.programs[rank]) and step(rank):
                moving = True
    if any(position[rank] < len(schedule.programs[rank]) for rank in ranks):
        raise LookupError("stuck")
    return result


def asked_once(mask: Mask, tokens: list[int], heads: int) -> Table:
    """What :func:`meetings` has to be: every key once for every query that may see it."""
    every = np.ones((sum(tokens), sum(tokens)), dtype=np.int64)
    return np.repeat((np.tril(every) if mask is Mask.CAUSAL else every)[:, :, None], heads, axis=2)
