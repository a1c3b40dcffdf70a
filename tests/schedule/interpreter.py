"""A second, simpler reading of what a plan computes, to hold against ``verify``.

Messages are queues without limits and a partial output is the multiset of the pairs in it. There is
no notion of channels that block, of proofs or of states, so it shares no idea with the verifier.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import Any

from tokenring_xdit.schedule import Attend, Block, Exchange, Kind, Schedule


def pairs_at_home(schedule: Schedule) -> list[Counter[tuple[int, int]]]:
    """For each rank, how often each (query owner, key owner) pair is in its result.

    Raises:
        LookupError: The plan gets stuck, or uses what it does not have.
    """
    ranks = range(schedule.world_size)
    wires: dict[Any, deque[Any]] = defaultdict(deque)
    memory: list[dict[Block, Any]] = [{Block(Kind.Q, r): r, Block(Kind.KV, r): r} for r in ranks]
    expected: list[dict[Block, Any]] = [{} for _ in ranks]
    position = [0 for _ in ranks]

    def ready(rank: int, block: Block) -> bool:
        if block in expected[rank] and block not in memory[rank]:
            wire = expected[rank][block]
            while wires[wire] and block not in memory[rank]:
                name, value = wires[wire].popleft()
                memory[rank][name] = value
        if block in memory[rank]:
            return True
        if block not in expected[rank]:
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
                value = memory[rank][t.block]
                wires[rank, t.peer, action.channel].append(
                    (t.block, Counter(value) if t.block.kind is Kind.O else value)
                )
        elif isinstance(action, Attend):
            if not all(ready(rank, block) for block in (action.q, action.kv)):
                return False
            partial = action.partial(rank)
            memory[rank].setdefault(partial, Counter())[memory[rank][action.q], memory[rank][action.kv]] += 1
        else:
            if not ready(rank, action.partial):
                return False
            home = Block(Kind.O, rank, rank)
            memory[rank].setdefault(home, Counter()).update(memory[rank][action.partial])
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
    return [memory[rank].get(Block(Kind.O, rank, rank), Counter()) for rank in ranks]
