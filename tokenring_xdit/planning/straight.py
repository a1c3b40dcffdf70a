"""Attention of a language model whose keys lie where they were computed, as programs of ranks.

Keys go straight to the ranks whose queries see them, or queries straight to the ranks whose keys they see, one rank a
round: :mod:`tokenring_xdit.hosts.transformers.exchanges` runs these programs, and they are proved before. Of a few
tokens that all ranks compute outputs are gathered. How others do the same, by gathering keys, is here to be compared
with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache

from tokenring_xdit.planning.pairs import Plan
from tokenring_xdit.schedule import Attend, Block, Channel, kv_block, o_block, q_block
from tokenring_xdit.schedule.lower import prove
from tokenring_xdit.schedule.lower.program import (
    OWN_KV,
    OWN_Q,
    RESULT,
    Collective,
    Done,
    KernelCall,
    MergeCall,
    Pack,
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
    reads,
    writes,
)
from tokenring_xdit.schedule.problem import Problem, sum_size

__all__ = ["ROUNDS_AT_ONCE", "Way", "lighter", "proved_straight", "straight"]

_GATHER = "gather"
"""Channel."""

ROUNDS_AT_ONCE = 3
"""Rounds whose messages are under way together: on a mesh each has links of its own, and each takes memory."""


class Way(Enum):
    """How attention gets to the keys of other ranks."""

    KEYS = "keys"
    QUERIES = "queries"
    OUTPUTS = "outputs"
    """All ranks have the queries, and gather partial outputs: for a few tokens."""
    GATHER_KV = "gather-kv"
    """All keys on every rank; of others."""


def lighter(plan: Plan, heads: int, kv_heads: int) -> Way:
    """Keys or queries: that of which less goes over all links together."""
    keys = queries = 0
    for rank, (start, stop) in enumerate(plan.queries):
        for other, part in enumerate(plan.seen[rank]):
            if other != rank and part.tokens:
                keys += 2 * kv_heads * part.tokens
                queries += 2 * heads * (stop - start)  # there, and an output as long back
    return Way.QUERIES if queries < keys else Way.KEYS


@lru_cache(maxsize=64)
def proved_straight(way: Way, plan: Plan, problem: Problem, *, in_order: bool) -> tuple[RankProgram, ...]:
    """:func:`straight` of keys or queries, and the proof of it.

    Args:
        way: Which of both.
        plan: Who sees what.
        problem: The shapes.
        in_order: Whether the transport works off the exchanges of a channel one after the other.

    Raises:
        VerificationError: Naming the rank and the step at fault.
    """
    programs = straight(way, plan, problem)

    def asked(rank: int, owner: int) -> tuple[int, int, bool]:
        first, tokens, _ = plan.seen[rank][owner]
        return first, first + tokens, False

    prove(f"straight {way.value}", programs, problem, mask=asked, in_order=in_order)
    return programs


def straight(way: Way, plan: Plan, problem: Problem) -> tuple[RankProgram, ...]:
    """What each rank does in one layer.

    Args:
        way: How.
        plan: Who sees what; of outputs all ranks have the queries of all.
        problem: The shapes: new tokens of each rank as queries, and all keys that it holds.
    """
    write: dict[Way, Callable[[_RankWriter], None]] = {
        Way.KEYS: _with_keys,
        Way.QUERIES: _with_queries,
        Way.OUTPUTS: _with_outputs,
        Way.GATHER_KV: _with_all_keys,
    }
    programs = []
    for rank in range(problem.ranks):
        writer = _RankWriter(rank, plan, problem)
        write[way](writer)
        programs.append(writer.program(fleeting=way in (Way.KEYS, Way.QUERIES)))
    return tuple(programs)


class _RankWriter:
    """Writes the program of a rank.

    Args:
        rank: The rank.
        plan: Who sees what.
        problem: The shapes.
    """

    def __init__(self, rank: int, plan: Plan, problem: Problem) -> None:
        self.rank, self.ranks, self._plan, self._problem = rank, problem.ranks, plan, problem
        self._slots: list[Slot] = []
        self._steps: list[Step] = []
        self._posts: list[Post] = []
        self.queries(rank)
        self._add(SlotForm.KEYS, kv_block(rank))
        self.sum(rank)

    def program(self, *, fleeting: bool) -> RankProgram:
        """What was written."""
        return RankProgram(tuple(self._slots), tuple(enumerate(self._steps)), self._peak(), fleeting=fleeting)

    def _peak(self) -> int:
        """Most bytes at once: of an exchange until it is done, and of sums until they are packed."""
        held, most = {RESULT}, 0
        for step in self._steps:
            held |= {slot for slot in writes(step) if slot > RESULT}
            most = max(most, sum(self._slots[slot].size for slot in held))
            if isinstance(step, Pack):
                held.discard(step.source)
            elif isinstance(step, Done):
                post = self._posts[step.post]
                held -= {*writes(post), *reads(post)}
        return most

    def sees(self, asking: int, owner: int) -> bool:
        """Whether queries of a rank see any keys of another one."""
        return self._plan.seen[asking][owner].tokens > 0

    def at(self, distance: int) -> int:
        """The rank so far behind this one, or before it."""
        return (self.rank + distance) % self.ranks

    # -- slots -------------------------------------------------------------------------------------

    def queries(self, asking: int) -> int:
        """Memory for a rank's queries."""
        return self._add(SlotForm.QUERIES, q_block(asking))

    def partial(self, asking: int) -> int:
        """Memory for a partial output of them."""
        return self._add(SlotForm.PARTIAL, o_block(asking, asking))

    def sum(self, asking: int) -> int:
        """Memory for their output while it is added up."""
        shape = self._problem.shape(q_block(asking))
        self._slots.append(Slot(SlotForm.SUM, shape, sum_size(shape)))
        return len(self._slots) - 1

    def all_keys(self, owner: int) -> int:
        """Memory for a rank's keys."""
        return self._add(SlotForm.KEYS, kv_block(owner))

    def seen_keys(self, owner: int) -> int:
        """Memory for those of a rank's keys that this rank's queries see."""
        block, (_, tokens, _) = kv_block(owner), self._plan.seen[self.rank][owner]
        whole = Slot(SlotForm.KEYS, self._problem.shape(block), self._problem.size(block))
        self._slots.append(whole.part((0, self._problem.kv_heads, 0, tokens)))
        return len(self._slots) - 1

    def seen_here(self, asking: int) -> View:
        """Those of this rank's keys that a rank's queries see."""
        return self.seen_of(asking, self.rank, OWN_KV)

    def seen_of(self, asking: int, owner: int, slot: int) -> View:
        """Those of a rank's keys, all of which are in a slot, that a rank's queries see."""
        heads, held = self._slots[slot].shape[1:3]
        first, tokens, _ = self._plan.seen[asking][owner]
        return View(slot, None if tokens == held else (0, heads, first, first + tokens))

    def _add(self, form: SlotForm, block: Block) -> int:
        self._slots.append(Slot(form, self._problem.shape(block), self._problem.size(block)))
        return len(self._slots) - 1

    # -- steps -------------------------------------------------------------------------------------

    def post(
        self, channel: Channel, come: tuple[int, int, Block] | None, go: tuple[int, View, Block] | None
    ) -> int | None:
        """Begin an exchange with a rank or two.

        Args:
            channel: On which channel.
            come: From whom something comes, where to, and what.
            go: To whom something goes, from where, and what.

        Returns:
            Its number; ``None`` where nothing comes or goes.
        """
        if come is None and go is None:
            return None
        recvs = () if come is None else (Recv(channel.value, *come, len(self._posts)),)
        payloads = () if go is None else (go[1],)
        sends = () if go is None else (Send(channel.value, go[0], 0, go[2]),)
        slots = [*(recv.slot for recv in recvs), *(part.slot for part in payloads)]
        messages = sum(self._slots[slot].form.tensors for slot in slots)
        return self._begin(Post(recvs, payloads, sends, messages))

    def gather(self, own: int, into: dict[int, int], block: Callable[[int], Block]) -> None:
        """Gather something of all ranks, as one tensor each, and wait for all of it.

        Args:
            own: What goes.
            into: Where what comes goes, by rank.
            block: What each has.
        """
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        if others:
            recvs = tuple(Recv(_GATHER, rank, into[rank], block(rank), 0) for rank in others)
            sends = tuple(Send(_GATHER, rank, 0, block(self.rank)) for rank in others)
            self._begin(Post(recvs, (View(own),), sends, 1, Collective.ALL_GATHER, blocks=True))

    def _begin(self, post: Post) -> int:
        self._steps.append(post)
        self._posts.append(post)
        return len(self._posts) - 1

    def done(self, post: int | None) -> None:
        """An exchange is over, if there was one."""
        if post is not None:
            self._steps.append(Done(post))

    def attend(self, asking: int, owner: int, queries: int, keys: View, target: int) -> None:
        """Attend those keys of a rank that a rank's queries see, if there are any."""
        if self.sees(asking, owner):
            self._attend(q_block(asking), kv_block(owner), queries, keys, target, self._plan.pairs(asking, owner))

    def attend_everything(self, target: int) -> None:
        """Attend this rank's keys with the queries of all ranks, which each has."""
        pairs = sum(self._plan.pairs(asking, self.rank) for asking in range(self.ranks))
        if pairs:
            self._attend(q_block(self.rank), kv_block(self.rank), OWN_Q, View(OWN_KV), target, pairs)

    def _attend(self, q: Block, kv: Block, queries: int, keys: View, target: int, pairs: int) -> None:
        batch, heads, q_tokens, _ = self._slots[queries].shape
        kv_tokens = self._slots[keys.slot].part(keys.cut).shape[2]
        targets, attends = (Target(target),), (Attend(q, kv),)
        view = View(queries)
        self._steps.append(
            KernelCall(view, keys, False, targets, batch * heads, q_tokens, kv_tokens, attends, pairs=pairs)
        )

    def pack(self, source: int, slot: int, block: Block) -> None:
        """Make a message of a sum."""
        self._steps.append(Pack(source, slot, block))

    def merge(self, partials: Sequence[tuple[int, Block]]) -> None:
        """Add partial outputs to the result, if there are any."""
        if partials:
            self._steps.append(MergeCall(tuple(Partial(slot, None, block) for slot, block in partials)))


def _with_keys(write: _RankWriter) -> None:
    """Keys and values go to the ranks whose queries see them."""
    rank, rounds = write.rank, range(1, write.ranks)
    posted: dict[int, tuple[int | None, int]] = {}  # the exchange of a round, and where keys come to

    def post(distance: int) -> None:
        source, target, slot, come, go = write.at(-distance), write.at(distance), -1, None, None
        if write.sees(rank, source):
            slot = write.seen_keys(source)
            come = source, slot, kv_block(source)
        if write.sees(target, rank):
            go = target, write.seen_here(target), kv_block(rank)
        posted[distance] = write.post(Channel.KV, come, go), slot

    for distance in rounds[:ROUNDS_AT_ONCE]:
        post(distance)
    write.attend(rank, rank, OWN_Q, write.seen_here(rank), RESULT)
    for distance in rounds:
        number, slot = posted.pop(distance)
        write.attend(rank, write.at(-distance), OWN_Q, View(slot), RESULT)
        write.done(number)
        if distance + ROUNDS_AT_ONCE in rounds:
            post(distance + ROUNDS_AT_ONCE)


def _with_queries(write: _RankWriter) -> None:
    """Queries go to the ranks whose keys they see; outputs and log-sum-exps come back."""
    rank, rounds = write.rank, range(1, write.ranks)
    posted: dict[int, tuple[int | None, int]] = {}  # the exchange of a round, and where queries come to
    returning: deque[tuple[int | None, int, Block]] = deque()  # exchanges of outputs, and where one comes to

    def post(distance: int) -> None:
        source, target, slot, come, go = write.at(distance), write.at(-distance), -1, None, None
        if write.sees(source, rank):
            slot = write.queries(source)
            come = source, slot, q_block(source)
        if write.sees(rank, target):
            go = target, View(OWN_Q), q_block(rank)
        posted[distance] = write.post(Channel.Q, come, go), slot

    def answer(distance: int, queries: int) -> None:
        source, target, slot, come, go = write.at(distance), write.at(-distance), -1, None, None
        if write.sees(source, rank):
            total, message, block = write.sum(source), write.partial(source), o_block(source, rank)
            write.attend(source, rank, queries, write.seen_here(source), total)
            write.pack(total, message, block)
            go = source, View(message), block
        if write.sees(rank, target):
            slot = write.partial(rank)
            come = target, slot, o_block(rank, target)
        returning.append((write.post(Channel.O, come, go), slot, o_block(rank, target)))

    def merge() -> None:
        number, slot, block = returning.popleft()
        if slot >= 0:
            write.merge([(slot, block)])
        write.done(number)

    for distance in rounds[:ROUNDS_AT_ONCE]:
        post(distance)
    write.attend(rank, rank, OWN_Q, write.seen_here(rank), RESULT)
    for distance in rounds:
        number, slot = posted.pop(distance)
        answer(distance, slot)
        write.done(number)
        if distance > ROUNDS_AT_ONCE:
            merge()
        if distance + ROUNDS_AT_ONCE in rounds:
            post(distance + ROUNDS_AT_ONCE)
    while returning:
        merge()


def _with_outputs(write: _RankWriter) -> None:
    """All ranks have all queries, and gather their outputs over the keys of each."""
    rank, others = write.rank, [other for other in range(write.ranks) if other != write.rank]
    total, message = write.sum(rank), write.partial(rank)
    write.attend_everything(total)
    write.pack(total, message, o_block(rank, rank))
    into = {other: write.partial(rank) for other in others}
    write.gather(message, into, lambda at: o_block(rank, at))
    write.merge([(slot, o_block(rank, at)) for at, slot in into.items()])


def _with_all_keys(write: _RankWriter) -> None:
    """Keys and values of all ranks are gathered, then attended."""
    into = {rank: OWN_KV if rank == write.rank else write.all_keys(rank) for rank in range(write.ranks)}
    write.gather(OWN_KV, into, kv_block)
    for owner, slot in into.items():
        write.attend(write.rank, owner, OWN_Q, write.seen_of(write.rank, owner, slot), RESULT)
