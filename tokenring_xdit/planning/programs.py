"""Schedules, and the strategies of others, as what a rank does in order: posts, works, waits.

:mod:`~tokenring_xdit.planning.simulate` runs these on a network. A schedule becomes exactly what the executor of
:mod:`tokenring_xdit.attention` does with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenring_xdit.planning.cost import Cost
from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.schedule import (
    Activity,
    Attend,
    Block,
    Exchange,
    Kind,
    Program,
    Schedule,
    Transfer,
    kv_block,
    o_block,
    q_block,
)
from tokenring_xdit.schedule.foresight import next_receives

__all__ = ["Message", "Post", "Step", "Work", "gathered", "of_schedule", "ulysses"]


@dataclass(frozen=True)
class Message:
    """One message between two ranks; the ``number``-th of its connection.

    Attributes:
        source: Sender.
        target: Receiver.
        channel: Name of the channel: each pair of ranks has a connection on each.
        number: Messages of a connection keep their order.
        size: Bytes.
        what: The block, for people.
    """

    source: int
    target: int
    channel: str
    number: int
    size: int = field(compare=False, default=0)
    what: str = field(compare=False, default="")


@dataclass(frozen=True)
class Post:
    """Messages announced and handed over, once what they hold is here; nothing is waited for afterwards.

    Attributes:
        needs: Messages that have to have come.
        recvs: What may come now.
        sends: What goes.
        seconds: What that costs the rank.
        ordered: The exchange on a channel that has to be over first, where channels work in order.
    """

    needs: tuple[Message, ...]
    recvs: tuple[Message, ...]
    sends: tuple[Message, ...]
    seconds: float
    ordered: str = ""


@dataclass(frozen=True)
class Work:
    """The rank computes, once what it needs is here.

    Attributes:
        activity: What for.
        needs: Messages that have to have come.
        seconds: How long, undisturbed.
        what: For people.
    """

    activity: Activity
    needs: tuple[Message, ...]
    seconds: float
    what: str


Step = Post | Work


class _Numbers:
    """Numbers messages by connection."""

    def __init__(self) -> None:
        self._sent: dict[tuple[int, int, str], int] = defaultdict(int)
        self._awaited: dict[tuple[int, int, str], int] = defaultdict(int)

    def sent(self, source: int, target: int, channel: str, size: int, what: str) -> Message:
        number = self._sent[source, target, channel]
        self._sent[source, target, channel] += 1
        return Message(source, target, channel, number, size, what)

    def awaited(self, source: int, target: int, channel: str, size: int, what: str) -> Message:
        number = self._awaited[source, target, channel]
        self._awaited[source, target, channel] += 1
        return Message(source, target, channel, number, size, what)


def of_schedule(schedule: Schedule, problem: Problem, cost: Cost) -> tuple[tuple[Step, ...], ...]:
    """What each rank does in a call of the executor.

    Args:
        schedule: A schedule that passed ``verify``.
        problem: The call.
        cost: The machine.
    """
    numbers = _Numbers()
    return tuple(tuple(_steps(rank, program, problem, cost, numbers)) for rank, program in enumerate(schedule.programs))


def _steps(rank: int, program: Program, problem: Problem, cost: Cost, numbers: _Numbers) -> Iterator[Step]:
    brought: dict[Block, Message] = {}
    posted: set[Block] = set()
    early = {} if cost.in_order else next_receives(program)

    def coming(transfers: tuple[Transfer, ...], channel: str) -> tuple[Message, ...]:
        fresh = [t for t in transfers if t.block not in posted]
        posted.update(t.block for t in fresh)
        messages = tuple(numbers.awaited(t.peer, rank, channel, problem.size(t.block), str(t.block)) for t in fresh)
        brought.update((t.block, message) for t, message in zip(fresh, messages, strict=True))
        return messages

    def needed(*blocks: Block) -> tuple[Message, ...]:
        found = []
        for block in blocks:
            if block in brought:
                found.append(brought[block])
            elif block.owner != rank or block.kind is Kind.O:
                found.append(next(message for held, message in brought.items() if held.covers(block)))
        return tuple(found)

    yield _call(cost)
    for index, action in enumerate(program):
        if isinstance(action, Exchange):
            channel = action.channel.value
            forwarded = [t.block for t in action.sends if t.block.kind is not Kind.O]
            needs = needed(*forwarded)
            packed = sum(problem.size(t.block) for t in action.sends if t.block.kind is Kind.O)
            recvs = coming(action.recvs, channel)
            sends = tuple(
                numbers.sent(rank, t.peer, channel, problem.size(t.block), str(t.block)) for t in action.sends
            )
            ahead = tuple(m for later in early.get(index, ()) for m in coming(later.recvs, later.channel.value))
            count = sum(2 if t.block.kind is Kind.KV else 1 for t in (*action.recvs, *action.sends))
            seconds = packed / cost.fold_rate + count * cost.message_overhead
            yield Post(needs, (*recvs, *ahead), sends, seconds, channel if cost.in_order else "")
        elif isinstance(action, Attend):
            seconds = cost.attend_overhead + problem.flops(action) / cost.attend_rate
            yield Work(Activity.ATTEND, needed(action.q, action.kv), seconds, f"{action.q} to {action.kv}")
        else:
            seconds = problem.size(action.partial) / cost.fold_rate
            yield Work(Activity.MERGE, needed(action.partial), seconds, str(action.partial))


def _call(cost: Cost) -> Work:
    return Work(Activity.WAIT, (), cost.call_overhead, "the call")


def gathered(problem: Problem, cost: Cost) -> tuple[tuple[Step, ...], ...]:
    """Xfuser's Ring as users get it: keys and values of all ranks are gathered, then attended block by block.

    An all-gather goes round a ring, one neighbour at a time, in gloo as in NCCL's plain algorithm; the own
    block is attended once it has been started (torch's ``_templated_ring_attention``).
    """
    ranks = problem.ranks
    numbers = _Numbers()
    programs = []
    for rank in range(ranks):
        steps: list[Step] = [_call(cost)]
        before, after = (rank - 1) % ranks, (rank + 1) % ranks
        came: tuple[Message, ...] = ()
        for step in range(ranks - 1):
            going, coming = (rank - step) % ranks, (rank - step - 1) % ranks
            sizes = [problem.size(kv_block(owner)) for owner in (coming, going)]
            recv = numbers.awaited(before, rank, "kv", sizes[0], f"KV[{coming}]")
            send = numbers.sent(rank, after, "kv", sizes[1], f"KV[{going}]")
            steps.append(Post(came, (recv,), (send,), 2 * cost.message_overhead))
            came = (recv,)
        for step in range(ranks):
            owner = (rank - step) % ranks
            seconds = cost.attend_overhead + problem.flops(Attend(q_block(rank), kv_block(owner))) / cost.attend_rate
            steps.append(Work(Activity.ATTEND, came, seconds, f"Q[{rank}] to KV[{owner}]"))
            if step:
                folded = problem.size(o_block(rank, rank)) / cost.fold_rate
                steps.append(Work(Activity.MERGE, (), folded, f"O[{rank}]"))
        programs.append(tuple(steps))
    return tuple(programs)


def ulysses(problem: Problem, cost: Cost) -> tuple[tuple[Step, ...], ...]:
    """Ulysses: all-to-all of queries, keys and values over heads, attention, all-to-all of the output.

    Args:
        problem: The call; heads have to be a multiple of the ranks.
        cost: The machine.
    """
    ranks = problem.ranks
    numbers = _Numbers()
    programs = []
    for rank in range(ranks):
        steps: list[Step] = [_call(cost)]
        exchanged: tuple[Message, ...] = ()
        for name, lengths, heads in (
            ("Q", problem.q_lengths, problem.heads),
            ("K", problem.kv_lengths, problem.kv_heads),
            ("V", problem.kv_lengths, problem.kv_heads),
        ):
            exchange = _all_to_all(rank, name, lengths, heads, problem, cost, numbers)
            steps.append(exchange)
            exchanged += exchange.recvs
        whole = 4.0 * sum(problem.q_lengths) * sum(problem.kv_lengths) * problem.head_dim * problem.batch
        seconds = cost.attend_overhead + whole * problem.heads / ranks / cost.attend_rate
        steps.append(Work(Activity.ATTEND, exchanged, seconds, f"all tokens, 1/{ranks} of the heads"))
        back = _all_to_all(rank, "O", problem.q_lengths, problem.heads, problem, cost, numbers)
        # The other way round: what a rank sends is a part of what it computed, for the tokens of each peer.
        steps += [back, Work(Activity.WAIT, back.recvs, 0.0, "O")]
        programs.append(tuple(steps))
    return tuple(programs)


def _all_to_all(
    rank: int,
    name: str,
    lengths: tuple[int, ...],
    heads: int,
    problem: Problem,
    cost: Cost,
    numbers: _Numbers,
) -> Post:
    ranks = problem.ranks
    peers = [(rank + d) % ranks for d in range(1, ranks)]
    back = name == "O"

    def size(source: int, target: int) -> int:
        tokens = lengths[target if back else source]
        elements = problem.batch * tokens * heads // ranks * problem.head_dim
        return round(elements * problem.element_bytes / cost.all_to_all_share)

    recvs = tuple(numbers.awaited(peer, rank, "a2a", size(peer, rank), name) for peer in peers)
    sends = tuple(numbers.sent(rank, peer, "a2a", size(rank, peer), name) for peer in peers)
    return Post((), recvs, sends, 2 * len(peers) * cost.message_overhead)
