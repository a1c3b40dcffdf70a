"""Schedules, and the strategies of others, as what a rank does in order: posts, works, waits.

:mod:`~tokenring_xdit.planning.simulate` runs these on a network. A schedule becomes exactly what the executor of
:mod:`tokenring_xdit.attention` does with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from tokenring_xdit.planning.cost import Cost
from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.schedule import (
    Activity,
    Attend,
    Block,
    Exchange,
    Kind,
    Merge,
    Program,
    Schedule,
    Transfer,
    kv_block,
    o_block,
    q_block,
)
from tokenring_xdit.schedule.foresight import Meeting, meetings, next_receives

__all__ = ["Inside", "Message", "Post", "Step", "Work", "gathered", "of_schedule", "shared_heads", "ulysses"]


@dataclass(eq=False, slots=True)
class Message:
    """One message between two ranks: the same object in the programs of both.

    Attributes:
        source: Sender.
        target: Receiver.
        channel: Name of the channel: each pair of ranks has a connection on each, and its messages keep their order.
        size: Bytes.
        what: The block; its text is for people.
        after: What has to have gone before it goes, besides those before it on its connection.
        before: What has this one as its ``after``.
    """

    source: int
    target: int
    channel: str
    size: int
    what: Block | str
    after: Message | None = None
    before: Message | None = None


class Post(NamedTuple):
    """Messages announced and handed over, once what they hold is here; nothing is waited for afterwards.

    Attributes:
        needs: Messages that have to have come.
        recvs: What may come now.
        sends: What goes.
        seconds: What that costs the rank.
        launch: What it costs the rank's host, which runs ahead.
        ordered: The channel where these are one exchange, which begins when those before it are over and is over as
            a whole; empty where each message is for itself.
    """

    needs: tuple[Message, ...]
    recvs: tuple[Message, ...]
    sends: tuple[Message, ...]
    seconds: float
    launch: float = 0.0
    ordered: str = ""


class Work(NamedTuple):
    """The rank computes, once what it needs is here.

    Attributes:
        activity: What for.
        needs: Messages that have to have come, or, of the rank's own, to have gone.
        seconds: How long, undisturbed.
        what: What with; its text is for people.
        launch: What it costs the rank's host, which runs ahead.
    """

    activity: Activity
    needs: tuple[Message, ...]
    seconds: float
    what: Meeting | Block | str
    launch: float = 0.0


Step = Post | Work


class Inside(Enum):
    """What else than a schedule can run inside Ulysses."""

    GATHERED = "xfuser's Ring"
    """Of one rank it is the kernel alone."""


class _Messages:
    """Makes each message once, for its sender or receiver, whoever asks first; the other finds it.

    Args:
        members: The ranks of a group, by their number in it.
    """

    def __init__(self, members: Sequence[int]) -> None:
        self._members = members
        self._made: dict[tuple[int, int, str], list[Message]] = defaultdict(list)
        self._sent: dict[tuple[int, int, str], int] = defaultdict(int)
        self._awaited: dict[tuple[int, int, str], int] = defaultdict(int)

    def sent(self, source: int, target: int, channel: str, size: int, what: Block | str) -> Message:
        """The next one that the source sends to the target."""
        return self._next(self._sent, (source, target, channel), size, what)

    def awaited(self, source: int, target: int, channel: str, size: int, what: Block | str) -> Message:
        """The next one that the target awaits from the source."""
        return self._next(self._awaited, (source, target, channel), size, what)

    def _next(
        self, counts: dict[tuple[int, int, str], int], connection: tuple[int, int, str], size: int, what: Block | str
    ) -> Message:
        made, number = self._made[connection], counts[connection]
        counts[connection] = number + 1
        if number == len(made):
            source, target, channel = connection
            made.append(Message(self._members[source], self._members[target], channel, size, what))
        return made[number]


def of_schedule(schedule: Schedule, problem: Problem, cost: Cost) -> tuple[tuple[Step, ...], ...]:
    """What each rank does in a call of the executor.

    Args:
        schedule: A schedule that passed ``verify``.
        problem: The call.
        cost: The machine.
    """
    inner = _schedule_steps(schedule, problem, cost, range(problem.ranks))
    return tuple((_call(cost), *steps) for steps in inner)


def gathered(problem: Problem, cost: Cost) -> tuple[tuple[Step, ...], ...]:
    """Xfuser's Ring as users get it: keys and values of all ranks are gathered, then attended block by block.

    An all-gather goes round a ring, one neighbour at a time, in gloo as in NCCL's plain algorithm (torch's
    ``_templated_ring_attention``, which waits for it before it attends). Key heads that several query heads share are
    repeated before (xfuser's ``USP``).
    """
    return _gathered_steps(problem, cost, range(problem.ranks))


def ulysses(degree: int, inside: Schedule | Inside, problem: Problem, cost: Cost) -> tuple[tuple[Step, ...], ...]:
    """Ulysses around something else: all-to-all of Q, K and V over heads, attention, all-to-all of the output.

    As in xfuser's ``USP``: ``degree`` consecutive ranks share the heads, and what runs inside joins those at the same
    place of each such group.

    Args:
        degree: Ranks that share the heads, of which their number has to be a multiple.
        inside: A schedule of ``problem.ranks / degree`` ranks, or another way.
        problem: The call.
        cost: The machine.
    """
    shared = _sharing(problem.ranks, degree)
    inner_problem = shared_heads(problem, degree)
    programs: dict[int, tuple[Step, ...]] = {}
    for place in range(degree):
        members = [ranks[place] for ranks in shared]
        if isinstance(inside, Schedule):
            inner = _schedule_steps(inside, inner_problem, cost, members)
        else:
            inner = _gathered_steps(inner_problem, cost, members)
        programs.update(zip(members, inner, strict=True))
    messages = _Messages(range(problem.ranks))
    result = []
    for rank in range(problem.ranks):
        ranks = shared[rank // degree]
        steps: list[Step] = [_call(cost)] if isinstance(inside, Schedule) else []
        for name in "QKVO":  # xfuser waits for each
            if name == "O":
                steps += programs[rank]
            post = _all_to_all(rank, ranks, name, problem, cost, messages)
            steps += [post, Work(Activity.WAIT, post.recvs, 0.0, name)]
        result.append(tuple(steps))
    return tuple(result)


def shared_heads(problem: Problem, degree: int) -> Problem:
    """What is left to do inside Ulysses: more tokens of fewer heads, over fewer ranks."""
    shared = _sharing(problem.ranks, degree)
    return replace(
        problem,
        q_lengths=tuple(sum(problem.q_lengths[rank] for rank in ranks) for ranks in shared),
        kv_lengths=tuple(sum(problem.kv_lengths[rank] for rank in ranks) for ranks in shared),
        heads=problem.heads // degree,
        kv_heads=problem.kv_heads // degree,
    )


def _sharing(ranks: int, degree: int) -> list[tuple[int, ...]]:
    """Ranks that share heads: consecutive ones."""
    return [tuple(range(first, first + degree)) for first in range(0, ranks, degree)]


def _call(cost: Cost) -> Work:
    return Work(Activity.WAIT, (), cost.call_overhead, "the call", cost.launches.call)


def _schedule_steps(
    schedule: Schedule, problem: Problem, cost: Cost, members: Sequence[int]
) -> tuple[tuple[Step, ...], ...]:
    """Steps of a schedule whose rank ``r`` is ``members[r]`` of the world."""
    messages = _Messages(members)
    return tuple(
        tuple(_steps(rank, program, problem, cost, messages)) for rank, program in enumerate(schedule.programs)
    )


def _steps(rank: int, program: Program, problem: Problem, cost: Cost, messages: _Messages) -> Iterator[Step]:
    brought: dict[Block, Message] = {}
    of_owner: dict[tuple[Kind, int], list[Block]] = defaultdict(list)
    early = {} if cost.in_order else next_receives(program)
    launches = cost.launches
    together = meetings(program)
    joined: set[tuple[Block, ...]] = set()

    def coming(transfers: tuple[Transfer, ...], channel: str) -> list[Message]:
        fresh = [t for t in transfers if t.block not in brought and problem.size(t.block)]
        for t in fresh:
            brought[t.block] = messages.awaited(t.peer, rank, channel, problem.size(t.block), t.block)
            of_owner[t.block.kind, t.block.owner].append(t.block)
        return [brought[t.block] for t in fresh]

    def needed(*blocks: Block) -> tuple[Message, ...]:
        found = []
        for block in blocks:
            if block in brought:
                found.append(brought[block])
            elif block.owner != rank or block.kind is Kind.O:
                found.append(brought[next(held for held in of_owner[block.kind, block.owner] if held.covers(block))])
        return tuple(found)

    for index, action in enumerate(program):
        if isinstance(action, Exchange):
            channel = action.channel.value
            going = [(t, size) for t in action.sends if (size := problem.size(t.block))]
            needs = needed(*(t.block for t, _ in going if t.block.kind is not Kind.O))
            recvs = coming(action.recvs, channel)
            sends = tuple(messages.sent(rank, t.peer, channel, size, t.block) for t, size in going)
            for later in early.get(index, ()):
                recvs += coming(later.recvs, later.channel.value)
            packed = [size for t, size in going if t.block.kind is Kind.O]
            posted = (*(t for t in action.recvs if problem.size(t.block)), *(t for t, _ in going))
            count = sum(t.block.kind.messages for t in posted)
            seconds = sum(map(cost.fold, packed)) + count * cost.message_overhead
            launch = len(packed) * launches.fold + count * launches.message
            yield Post(needs, tuple(recvs), sends, seconds, launch, channel if cost.in_order else "")
        elif isinstance(action, Merge):
            size = problem.size(action.partial)
            if size:
                yield Work(Activity.MERGE, needed(action.partial), cost.fold(size), action.partial, launches.fold)
        elif index in together:
            meeting = together[index]
            queries = meeting.attends[0].narrowed[0]
            keys = tuple(block for block in meeting.keys if problem.size(block))
            if not (keys and problem.size(queries)):
                continue
            needs = needed(*keys)
            if len(keys) > 1 and meeting.keys not in joined:
                joined.add(meeting.keys)
                seconds = cost.fold(sum(map(problem.size, keys)))
                yield Work(Activity.MERGE, needs, seconds, ", ".join(map(str, keys)), launches.fold)
            needs += needed(queries)
            seconds = cost.attend(problem.attention(meeting.attends))
            yield Work(Activity.ATTEND, needs, seconds, meeting, launches.attend)


def _gathered_steps(problem: Problem, cost: Cost, members: Sequence[int]) -> tuple[tuple[Step, ...], ...]:
    ranks = problem.ranks
    problem = problem.repeated
    messages = _Messages(members)
    programs = []
    for rank in range(ranks):
        steps: list[Step] = []
        before, after = (rank - 1) % ranks, (rank + 1) % ranks
        came: tuple[Message, ...] = ()
        sent: list[Message] = []
        for step in range(ranks - 1):
            going, coming = kv_block((rank - step) % ranks), kv_block((rank - step - 1) % ranks)
            recv = messages.awaited(before, rank, "gather", problem.size(coming), coming)
            send = messages.sent(rank, after, "gather", problem.size(going), going)
            launch = 0.0 if step else cost.launches.collective
            steps.append(Post(came, (recv,), (send,), 2 * cost.message_overhead, launch))
            came = (recv,)
            sent.append(send)
        steps.append(Work(Activity.WAIT, (*came, *sent), 0.0, "all of it"))
        for step in range(ranks):
            attend = Attend(q_block(rank), kv_block((rank - step) % ranks))
            seconds = cost.attend(problem.attention((attend,)))
            steps.append(Work(Activity.ATTEND, (), seconds, str(attend), cost.launches.attend))
            if step:
                own = o_block(rank, rank)
                steps.append(Work(Activity.MERGE, (), cost.fold(problem.size(own)), own, cost.launches.fold))
        programs.append(tuple(steps))
    return tuple(programs)


def _all_to_all(
    rank: int, ranks: tuple[int, ...], name: str, problem: Problem, cost: Cost, messages: _Messages
) -> Post:
    """One of the four exchanges of Ulysses."""
    keys = name in "KV"
    lengths, heads = (problem.kv_lengths, problem.kv_heads) if keys else (problem.q_lengths, problem.heads)

    def size(source: int, target: int) -> int:
        tokens = lengths[target if name == "O" else source]
        return problem.batch * tokens * heads // len(ranks) * problem.head_dim * problem.element_bytes

    first = ranks.index(rank)
    recvs, sends = [], []
    for distance in range(1, len(ranks)):
        peer = ranks[(first + distance) % len(ranks)]
        back = messages.awaited(peer, rank, "all-to-all", size(peer, rank), name)
        there = messages.sent(rank, peer, "all-to-all", size(rank, peer), name)
        if cost.turns_in_all_to_all and (rank < peer) == bool((rank + peer) % 2):
            there.after, back.before = back, there
        recvs.append(back)
        sends.append(there)
    return Post((), tuple(recvs), tuple(sends), 2 * len(sends) * cost.message_overhead, cost.launches.collective)
