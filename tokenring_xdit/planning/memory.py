"""How many bytes a call holds at once beside its inputs."""

from __future__ import annotations

from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.schedule import Attend, Block, Exchange, Kind, Program, Schedule, kv_block, o_block, q_block
from tokenring_xdit.schedule.foresight import last_uses, meetings

__all__ = ["gathered_memory", "repeated_memory", "schedule_memory", "ulysses_memory"]


def schedule_memory(schedule: Schedule, problem: Problem) -> int:
    """Most bytes that a rank holds in a call of the executor: what travels, sums of partial outputs, the output.

    Args:
        schedule: What the ranks do.
        problem: The call.
    """
    return max(_peak(rank, program, problem) for rank, program in enumerate(schedule.programs))


def _peak(rank: int, program: Program, problem: Problem) -> int:
    expiring = last_uses(program)
    together = meetings(program)
    held = _Held()
    away: list[tuple[int, int]] = []  # bytes of packed partial outputs, by number of exchange
    brought: dict[Block, int] = {}  # exchange that brings a partial output
    result = o_block(rank, rank)
    held.add(result, problem.partial_memory(result))
    peak = held.total
    for index, action in enumerate(program):
        meeting = together.get(index)
        if isinstance(action, Exchange):
            for t in action.recvs:
                held.add(t.block, problem.size(t.block))
                if t.block.kind is Kind.O:
                    brought[t.block] = index
            away += [(index, problem.size(t.block)) for t in action.sends if t.block.kind is Kind.O]
        elif isinstance(action, Attend):
            partial = action.partial(rank)
            if partial.owner != rank:
                held.add(partial, problem.partial_memory(partial))
            if meeting is not None:
                sizes = [size for size in map(problem.size, meeting.keys) if size]
                if len(sizes) > 1:
                    held.add(meeting.keys, sum(sizes))
        else:
            away = [entry for entry in away if entry[0] > brought[action.partial]]
        peak = max(peak, held.total + sum(size for _, size in away))
        if isinstance(action, Exchange):  # packed: the sums are free
            for t in action.sends:
                if t.block.kind is Kind.O:
                    held.drop(t.block)
        for block in expiring.get(index, ()):
            held.drop(block)
        if meeting is not None and meeting.last:
            held.drop(meeting.keys)
    return peak


class _Held:
    """Blocks that a rank holds, or keys of several that were joined, and their bytes together."""

    def __init__(self) -> None:
        self._sizes: dict[Block | tuple[Block, ...], int] = {}
        self.total = 0

    def add(self, block: Block | tuple[Block, ...], size: int) -> None:
        """Hold a block, unless it is held."""
        if block not in self._sizes:
            self._sizes[block] = size
            self.total += size

    def drop(self, block: Block | tuple[Block, ...]) -> None:
        """Hold it no more."""
        self.total -= self._sizes.pop(block, 0)


def gathered_memory(problem: Problem) -> int:
    """The same for xfuser's Ring: keys and values of all ranks, twice while they are sorted, and the output.

    Key heads that several query heads share have been repeated before.
    """
    problem = problem.repeated
    ranks = range(problem.ranks)
    everyone = sum(problem.size(kv_block(rank)) for rank in ranks)
    return 2 * everyone + max(problem.partial_memory(o_block(rank, rank)) for rank in ranks)


def repeated_memory(problem: Problem) -> int:
    """The same for keys and values that xfuser repeats for the query heads that share them: nothing where none do."""
    if problem.kv_heads == problem.heads:
        return 0
    return max(problem.repeated.size(kv_block(rank)) for rank in range(problem.ranks))


def ulysses_memory(problem: Problem, degree: int) -> int:
    """The same for the exchanges of Ulysses: Q, K and V of fewer heads, and the output before and after.

    Args:
        problem: The call.
        degree: Ranks that share the heads.
    """
    ranks = range(problem.ranks)
    own = max(2 * problem.size(q_block(rank)) + problem.size(kv_block(rank)) for rank in ranks)
    return own + (0 if degree == 1 else own // 2)
