"""What xfuser's own Ring and Ulysses do, as programs of ranks, and what they hold in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from tokenring_xdit.schedule import Attend, Block, Piece, Schedule, kv_block, o_block, q_block
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.program import (
    OWN_KV,
    OWN_Q,
    RESULT,
    Collective,
    Cut,
    KernelCall,
    MergeCall,
    Partial,
    Post,
    RankProgram,
    Recv,
    Send,
    Slot,
    SlotForm,
    Step,
    Target,
    View,
)
from tokenring_xdit.schedule.problem import Problem, sum_size

__all__ = [
    "Inside",
    "gathered",
    "shared_heads",
    "ulysses",
]

_GATHER, _ALL_TO_ALL = "gather", "all-to-all"
"""Channels."""


class Inside(Enum):
    """What else than a schedule can run inside Ulysses."""

    GATHERED = "xfuser's Ring"
    """Of one rank it is the kernel alone."""


def gathered(problem: Problem) -> tuple[RankProgram, ...]:
    """Xfuser's Ring as users get it: keys and values of all ranks are gathered, then attended block by block.

    Torch's ``_templated_ring_attention`` gathers both as one tensor, and waits for that before it attends. Key heads
    that several query heads share are repeated before (xfuser's ``USP``).
    """
    memory, problem = _gathered_memory(problem), problem.repeated
    return tuple(RankProgram(*_gathering(rank, problem), memory, ours=False) for rank in range(problem.ranks))


def _gathering(rank: int, problem: Problem) -> tuple[tuple[Slot, ...], tuple[tuple[int, Step], ...]]:
    ranks = range(problem.ranks)
    own = o_block(rank, rank)
    shape, kv_shape = problem.shape(own), problem.shape(kv_block(rank))
    slots = [
        Slot(SlotForm.QUERIES, shape, problem.size(q_block(rank))),
        Slot(SlotForm.KEYS, kv_shape, problem.size(kv_block(rank))),
        Slot(SlotForm.SUM, shape, sum_size(shape)),
        Slot(SlotForm.PARTIAL, shape, problem.size(own)),  # what is merged with the result block by block
    ]
    partial = len(slots) - 1
    keys = {rank: OWN_KV}
    recvs = []
    for peer in ranks:
        if peer != rank:
            keys[peer] = len(slots)
            slots.append(Slot(SlotForm.KEYS, problem.shape(kv_block(peer)), problem.size(kv_block(peer))))
            recvs.append(Recv(_GATHER, peer, keys[peer], kv_block(peer), 0))
    steps: list[Step] = []
    if recvs:
        sends = tuple(Send(_GATHER, recv.peer, 0, kv_block(rank)) for recv in recvs)
        steps.append(Post(tuple(recvs), (View(OWN_KV),), sends, 1, Collective.ALL_GATHER, blocks=True))
    for distance in ranks:
        owner = (rank - distance) % problem.ranks
        target, attend = Target(partial if distance else RESULT), Attend(q_block(rank), kv_block(owner))
        heads, q_tokens, kv_tokens = shape[0] * shape[1], shape[2], problem.shape(kv_block(owner))[2]
        part = View(keys[owner])
        steps.append(KernelCall(View(OWN_Q), part, False, (target,), heads, q_tokens, kv_tokens, (attend,)))
        if distance:
            steps.append(MergeCall((Partial(partial, None, own),)))
    return tuple(slots), tuple((0, step) for step in steps)


def ulysses(degree: int, inside: Schedule | Inside, problem: Problem, *, in_order: bool) -> tuple[RankProgram, ...]:
    """Ulysses around something else: all-to-all of Q, K and V over heads, attention, all-to-all of the output.

    As in xfuser's ``USP``: ``degree`` consecutive ranks share the heads, and what runs inside joins those at the same
    place of each such group.

    Args:
        degree: Ranks that share the heads, of which their number has to be a multiple.
        inside: A schedule of ``problem.ranks / degree`` ranks, or another way.
        problem: The call.
        in_order: What the transport says, as for :func:`~tokenring_xdit.schedule.lower.lower`.
    """
    shared, left = _sharing(problem.ranks, degree), shared_heads(problem, degree)
    inner = lower(inside, left, in_order=in_order) if isinstance(inside, Schedule) else gathered(left)
    memory = _ulysses_memory(problem, degree)
    programs = []
    for rank in range(problem.ranks):
        program = with_peers(inner[rank // degree], [ranks[rank % degree] for ranks in shared])
        exchanges = _Exchanges(rank, shared[rank // degree], problem, len(program.slots))
        before = [(0, exchanges.post(name)) for name in "QKV"] if degree > 1 else []
        after = [(0, exchanges.post("O"))] if degree > 1 else []
        slots, steps = (*program.slots, *exchanges.slots), (*before, *program.steps, *after)
        programs.append(RankProgram(slots, steps, program.peak + memory, ours=isinstance(inside, Schedule)))
    return tuple(programs)


class _Exchanges:
    """The four exchanges of a rank; xfuser waits for each.

    Args:
        rank: The rank.
        ranks: Those that share the heads with it, and itself.
        problem: The call.
        first: Number of the first slot that is free.
    """

    def __init__(self, rank: int, ranks: tuple[int, ...], problem: Problem, first: int) -> None:
        self._rank, self._ranks, self._problem, self._first = rank, ranks, problem, first
        self.slots: list[Slot] = []

    def post(self, name: str) -> Post:
        """The exchange of Q, K, V or O."""
        place, degree = self._ranks.index(self._rank), len(self._ranks)
        peers = [self._ranks[(place + distance) % degree] for distance in range(1, degree)]
        share = self._problem.heads // degree if name in "QO" else self._problem.kv_heads // degree
        own = self._tokens(name, self._rank)
        home = sum(self._tokens(name, rank) for rank in self._ranks) if name == "O" else own
        source = self._slot(share if name == "O" else share * degree, home)
        recvs, payloads, sends = [], [], []
        for number, peer in enumerate(peers):
            into = self._slot(share, own if name == "O" else self._tokens(name, peer))
            recvs.append(Recv(_ALL_TO_ALL, peer, into, self._block(name, peer, self._rank), 0))
            payloads.append(View(source, self._cut(name, peer, share)))
            sends.append(Send(_ALL_TO_ALL, peer, number, self._block(name, self._rank, peer)))
        return Post(tuple(recvs), tuple(payloads), tuple(sends), 1, Collective.ALL_TO_ALL, blocks=True)

    def _slot(self, heads: int, tokens: int) -> int:
        batch, head_dim = self._problem.batch, self._problem.head_dim
        size = batch * heads * tokens * head_dim * self._problem.element_bytes
        self.slots.append(Slot(SlotForm.QUERIES, (batch, heads, tokens, head_dim), size))
        return self._first + len(self.slots) - 1

    def _tokens(self, name: str, rank: int) -> int:
        return (self._problem.q_lengths if name in "QO" else self._problem.kv_lengths)[rank]

    def _cut(self, name: str, peer: int, share: int) -> Cut:
        """What a peer gets: its heads of all tokens here, or of the output its tokens in all heads here."""
        at = self._ranks.index(peer)
        if name != "O":
            return at * share, (at + 1) * share, 0, self._tokens(name, self._rank)
        first = sum(self._tokens(name, rank) for rank in self._ranks[:at])
        return 0, share, first, first + self._tokens(name, peer)

    def _block(self, name: str, source: int, target: int) -> Block:
        heads = Piece(self._ranks.index(source if name == "O" else target), len(self._ranks))
        if name == "O":
            return o_block(target, source, heads=heads)
        return q_block(source, heads=heads) if name == "Q" else kv_block(source, heads=heads)


def with_peers(program: RankProgram, members: Sequence[int]) -> RankProgram:
    """The program of a rank of a group, for the world of which that is a part.

    Args:
        program: With the numbers of the group.
        members: The ranks of the group.
    """
    steps: list[tuple[int, Step]] = []
    for index, step in program.steps:
        if isinstance(step, Post):
            recvs = tuple(recv._replace(peer=members[recv.peer]) for recv in step.recvs)
            sends = tuple(send._replace(peer=members[send.peer]) for send in step.sends)
            steps.append((index, step._replace(recvs=recvs, sends=sends)))
        else:
            steps.append((index, step))
    return program._replace(steps=tuple(steps))


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


def _gathered_memory(problem: Problem) -> int:
    """Keys and values of all ranks, twice while they are sorted, and the output.

    Of one rank, where nothing is gathered: those that are repeated for the query heads that share them.
    """
    ranks = range(problem.ranks)
    if problem.ranks == 1:
        return 0 if problem.kv_heads == problem.heads else problem.repeated.size(kv_block(0))
    everyone = sum(problem.repeated.size(kv_block(rank)) for rank in ranks)
    return 2 * everyone + max(sum_size(problem.shape(o_block(rank, rank))) for rank in ranks)


def _ulysses_memory(problem: Problem, degree: int) -> int:
    """The exchanges of Ulysses: Q, K and V of fewer heads, and the output before and after."""
    own = max(2 * problem.size(q_block(rank)) + problem.size(kv_block(rank)) for rank in range(problem.ranks))
    return own + (0 if degree == 1 else own // 2)
