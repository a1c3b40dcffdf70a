"""Attention of a language model whose keys lie where they were computed, as steps of ranks that can be timed.

:mod:`tokenring_xdit.hosts.transformers.exchanges` does these on ranks: keys go straight to the ranks whose queries see
them, or queries straight to the ranks whose keys they see, one rank a round; of a few tokens that all ranks compute
outputs are gathered. How others do the same, by gathering keys, is here to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tokenring_xdit.planning.machine import Attention, Machine
from tokenring_xdit.planning.steps import Message, Posting, TimedStep, Work
from tokenring_xdit.schedule import Activity
from tokenring_xdit.schedule.problem import LSE_BYTES, even_shares

__all__ = ["FLOAT_BYTES", "ROUNDS_AT_ONCE", "LayerTurn", "Way", "few_tokens", "span_of", "steps_of"]

FLOAT_BYTES = 4
"""Of outputs that are merged."""

_FEW = 16

ROUNDS_AT_ONCE = 3
"""Rounds whose messages are under way together: on a mesh each has links of its own, and each takes memory."""


def few_tokens(ranks: int) -> int:
    """New tokens, at most, that every rank computes, so that one collective a layer is all that travels."""
    return max(_FEW, 2 * ranks)


@dataclass(frozen=True)
class LayerTurn:
    """Attention of one layer over new tokens and those that were computed before.

    Attributes:
        ranks: Ranks that share the sequence.
        past: Tokens that were computed before; all of them are seen by all new ones.
        new: Tokens of this call, which see each other causally.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        batch: Items.
        element_bytes: Bytes of an element.
        window: How many keys a query sees, its own included; ``None`` for all up to its own.
    """

    ranks: int
    past: int
    new: int
    heads: int
    kv_heads: int
    head_dim: int
    batch: int = 1
    element_bytes: int = 2
    window: int | None = None

    @property
    def queries(self) -> tuple[int, ...]:
        """New tokens of each rank."""
        return even_shares(self.new, self.ranks)

    @property
    def held(self) -> tuple[int, ...]:
        """Tokens of each rank that were computed before."""
        return even_shares(self.past, self.ranks)

    def seen(self, rank: int, other: int) -> tuple[int, bool]:
        """How many keys of another rank a rank's queries see, and whether the last of them are its own new ones."""
        queries = self.queries
        if self.window is not None:
            start, stop = span_of(queries, rank, self.past)
            low = max(0, start - self.window + 1)
            spans = span_of(self.held, other), span_of(queries, other, self.past)
            seen = sum(max(0, min(stop, high) - max(low, first)) for first, high in spans)
            return (seen if stop > start else 0), other == rank
        if other == rank:
            return self.held[rank] + queries[rank], True
        return self.held[other] + (queries[other] if other < rank else 0), False

    def pairs(self, rank: int, other: int) -> int:
        """How many pairs of a rank's queries and another rank's keys are attended."""
        start, stop = span_of(self.queries, rank, self.past)
        if self.window is None:
            keys, own = self.seen(rank, other)
            return (stop - start) * keys - ((stop - start) ** 2 // 2 if own else 0)
        spans = span_of(self.held, other), span_of(self.queries, other, self.past)
        return sum(
            _causal_pairs(start, stop, first, high)
            - _causal_pairs(start - self.window, stop - self.window, first, high)
            for first, high in spans
        )

    def query_bytes(self, rank: int) -> int:
        """Of a rank's queries."""
        return self.batch * self.heads * self.queries[rank] * self.head_dim * self.element_bytes

    def output_bytes(self, rank: int) -> int:
        """Of a partial output of a rank's queries, with its log-sum-exp."""
        return self.query_bytes(rank) + self.batch * self.heads * self.queries[rank] * LSE_BYTES

    def key_bytes(self, tokens: int) -> int:
        """Of keys and values of some tokens."""
        return 2 * self.batch * self.kv_heads * tokens * self.head_dim * self.element_bytes


def span_of(shares: Sequence[int], rank: int, first: int = 0) -> tuple[int, int]:
    """Where a rank's share lies, of consecutive ones."""
    start = first + sum(shares[:rank])
    return start, start + shares[rank]


def _causal_pairs(start: int, stop: int, low: int, high: int) -> int:
    """Pairs of a query of ``start..stop - 1`` and a key of ``low..high - 1`` that is not behind it."""

    def until(queries: int) -> int:  # pairs of the queries from the first key on
        within = min(max(queries, 0), high - low)
        return within * (within + 1) // 2 + (max(queries, 0) - within) * (high - low)

    return until(stop - low) - until(start - low)


class Way(Enum):
    """How attention gets to the keys of other ranks."""

    KEYS = "keys"
    QUERIES = "queries"
    OUTPUTS = "outputs"
    """All ranks have the queries, and gather partial outputs: for a few tokens."""
    GATHER_KV = "gather-kv"
    """All keys on every rank; of others."""


def steps_of(turn: LayerTurn, way: Way, machine: Machine) -> tuple[tuple[TimedStep, ...], ...]:
    """What each rank does in one layer.

    Args:
        turn: What is computed.
        way: How.
        machine: Speeds of the ranks.
    """
    ways: dict[Way, Callable[[_Straight, int], Iterator[TimedStep]]] = {
        Way.KEYS: _Straight.with_keys,
        Way.QUERIES: _Straight.with_queries,
        Way.OUTPUTS: _Straight.with_outputs,
        Way.GATHER_KV: _Straight.with_all_keys,
    }
    calls = _Straight(turn, machine)
    return tuple(tuple(ways[way](calls, rank)) for rank in range(turn.ranks))


class _Straight:
    def __init__(self, turn: LayerTurn, machine: Machine) -> None:
        self._turn, self._machine = turn, machine
        self._messages: dict[tuple[int, int, str, int], Message] = {}

    def with_keys(self, rank: int) -> Iterator[TimedStep]:
        turn, ranks = self._turn, self._turn.ranks
        yield self._begin()

        def post(distance: int) -> Posting:
            source, target = (rank - distance) % ranks, (rank + distance) % ranks
            coming = self._keys(source, rank)
            return self._post("keys", coming, self._keys(rank, target), each=2)

        posted = [post(distance) for distance in range(1, ranks)]
        yield from posted[:ROUNDS_AT_ONCE]
        yield self._attend(rank, rank, ())
        for distance, now in enumerate(posted, 1):
            if now.recvs:
                yield self._attend(rank, (rank - distance) % ranks, now.recvs)
                yield self._merge(turn.output_bytes(rank), ())
            yield Work(Activity.WAIT, now.sends, 0.0, "what was sent")
            yield from posted[distance + ROUNDS_AT_ONCE - 1 :][:1]

    def with_queries(self, rank: int) -> Iterator[TimedStep]:
        turn, ranks = self._turn, self._turn.ranks
        yield self._begin()

        def post(distance: int) -> Posting:
            source, target = (rank + distance) % ranks, (rank - distance) % ranks
            return self._post("queries", self._query(source, rank), self._query(rank, target), each=1)

        posted = [post(distance) for distance in range(1, ranks)]
        yield from posted[:ROUNDS_AT_ONCE]
        yield self._attend(rank, rank, ())
        returning: list[Posting] = []
        for distance, now in enumerate(posted, 1):
            source, target = (rank + distance) % ranks, (rank - distance) % ranks
            if now.recvs:
                yield self._attend(source, rank, now.recvs)
            back = self._post("outputs", self._output(target, rank), self._output(rank, source), each=2)
            yield back
            returning.append(back)
            yield Work(Activity.WAIT, now.sends, 0.0, "what was sent")
            if distance > ROUNDS_AT_ONCE:
                yield self._merge(turn.output_bytes(rank), returning.pop(0).recvs)
            yield from posted[distance + ROUNDS_AT_ONCE - 1 :][:1]
        for last in returning:
            yield self._merge(turn.output_bytes(rank), last.recvs)

    def with_outputs(self, rank: int) -> Iterator[TimedStep]:
        turn = self._turn
        size = turn.batch * turn.heads * turn.new * (turn.head_dim + 1) * FLOAT_BYTES
        yield self._begin()
        pairs = turn.new * (turn.held[rank] + turn.queries[rank])
        if turn.window is not None:  # all ranks have all queries
            pairs = sum(turn.pairs(other, rank) for other in range(turn.ranks))
        yield self._kernel(turn.new, pairs, ())
        yield from self._gather(rank, "outputs", [size] * turn.ranks)
        yield self._merge(size * (turn.ranks - 1), ())

    def with_all_keys(self, rank: int) -> Iterator[TimedStep]:
        turn = self._turn
        yield self._begin()
        sizes = [turn.key_bytes(turn.held[other] + turn.queries[other]) for other in range(turn.ranks)]
        yield from self._gather(rank, "keys", sizes)
        for other in range(turn.ranks):
            if turn.seen(rank, other)[0]:
                yield self._attend(rank, other, ())

    # -- steps -------------------------------------------------------------------------------------

    def _begin(self) -> Work:
        return Work(Activity.WAIT, (), self._machine.call_overhead, "the call", self._machine.launches.call)

    def _message(self, source: int, target: int, channel: str, size: int, number: int = 0) -> Message:
        return self._messages.setdefault(
            (source, target, channel, number), Message(source, target, channel, size, channel)
        )

    def _keys(self, owner: int, asking: int) -> tuple[Message, ...]:
        tokens, _ = self._turn.seen(asking, owner)
        return (self._message(owner, asking, "keys", self._turn.key_bytes(tokens)),) if tokens else ()

    def _query(self, asking: int, owner: int) -> tuple[Message, ...]:
        tokens, _ = self._turn.seen(asking, owner)
        return (self._message(asking, owner, "queries", self._turn.query_bytes(asking)),) if tokens else ()

    def _output(self, owner: int, asking: int) -> tuple[Message, ...]:
        tokens, _ = self._turn.seen(asking, owner)
        return (self._message(owner, asking, "outputs", self._turn.output_bytes(asking)),) if tokens else ()

    def _post(self, channel: str, recvs: tuple[Message, ...], sends: tuple[Message, ...], each: int) -> Posting:
        messages = each * (len(recvs) + len(sends))
        machine = self._machine
        ordered = channel if machine.in_order and messages else ""
        seconds, launch = messages * machine.message_overhead, messages * machine.launches.message
        return Posting((), recvs, sends, seconds, launch, ordered)

    def _gather(self, rank: int, what: str, sizes: Sequence[int]) -> Iterator[TimedStep]:
        """Round a ring, one neighbour at a time, as gloo and NCCL's plain algorithm gather."""
        ranks, machine = self._turn.ranks, self._machine
        before, after = (rank - 1) % ranks, (rank + 1) % ranks
        came: tuple[Message, ...] = ()
        sent: list[Message] = []
        for hop in range(ranks - 1):
            going, coming = (rank - hop) % ranks, (rank - hop - 1) % ranks
            recv = self._message(before, rank, what, sizes[coming], hop)
            send = self._message(rank, after, what, sizes[going], hop)
            launch = 0.0 if hop else machine.launches.collective
            yield Posting(came, (recv,), (send,), 2 * machine.message_overhead, launch)
            came = (recv,)
            sent.append(send)
        yield Work(Activity.WAIT, (*came, *sent), 0.0, f"all {what}")

    def _attend(self, asking: int, owner: int, needs: tuple[Message, ...]) -> Work:
        return self._kernel(self._turn.queries[asking], self._turn.pairs(asking, owner), needs)

    def _kernel(self, queries: int, pairs: int, needs: tuple[Message, ...]) -> Work:
        turn, machine = self._turn, self._machine
        flops = 4.0 * turn.batch * turn.heads * turn.head_dim * pairs
        seconds = machine.attend(Attention(flops, turn.batch * turn.heads, queries)) if pairs else 0.0
        return Work(Activity.ATTEND, needs, seconds, "attention", machine.launches.attend)

    def _merge(self, size: int, needs: tuple[Message, ...]) -> Work:
        machine = self._machine
        return Work(Activity.MERGE, needs, machine.fold(size) if size else 0.0, "a merge", machine.launches.fold)
