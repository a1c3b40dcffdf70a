"""Attention of a language model over more ranks than can be simulated: what it takes at least, from sums.

Of every strategy the time is that of the busiest rank or of the busiest link, whichever is more, as if communication
were hidden wherever it can be: a lower bound, within a minute where a simulation of a thousand ranks takes hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenring_xdit.planning.capacity import balanced_schedule
from tokenring_xdit.planning.layer_turn import FLOAT_BYTES, LayerTurn, StrategyForecast
from tokenring_xdit.planning.machine import Attention, Machine
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.schedule.problem import LSE_BYTES
from tokenring_xdit.topology import Network

__all__ = ["MANY_RANKS", "bounds"]

MANY_RANKS = 64
"""With more, phases of a language model are not simulated."""

_Numbers = NDArray[np.float64]


def bounds(turn: LayerTurn, ways: tuple[Way, ...], network: Network, machine: Machine) -> list[StrategyForecast]:
    """What strategies take at least, and the balanced schedule where it does what is asked.

    Args:
        turn: What is computed.
        ways: Strategies.
        network: Rank ``r`` is at its ``r``-th host.
        machine: Speeds of the ranks.
    """
    sums = _Sums(turn, machine)
    found = [(way.value, sums.of(way), way is not Way.GATHER_KV) for way in ways]
    if not turn.past and turn.window is None and Way.KEYS in ways:
        found.append((balanced_schedule(), sums.balanced(), True))
    routes = _routes(network, turn.ranks)
    return [_bound(name, total, machine, routes, ours) for name, total, ours in found]


@dataclass(frozen=True)
class _Total:
    """Of each rank, over a layer.

    Attributes:
        traffic: Bytes ``[source, target]``.
        attending: Seconds in which it attends.
        folding: Seconds in which it merges and posts.
        launching: Seconds of its host.
    """

    traffic: _Numbers
    attending: _Numbers
    folding: _Numbers
    launching: _Numbers


def _bound(name: str, total: _Total, machine: Machine, routes: _Routes, ours: bool) -> StrategyForecast:
    works = total.attending + total.folding
    together = 0.0 if machine.cores is None else float(works.sum()) / machine.cores
    launch = float(total.launching.max()) + machine.launches.call
    busiest = max(float(works.max()) + machine.call_overhead, together, launch, routes.busiest(total.traffic))
    sent = int(total.traffic.sum(axis=1).max())
    return StrategyForecast(name, busiest, busiest - float(total.attending.max()), sent, ours)


class _Sums:
    """What ranks do in each strategy; matrices are ``[rank of the queries, rank of the keys]``."""

    def __init__(self, turn: LayerTurn, machine: Machine) -> None:
        self._turn, self._machine = turn, machine
        self._queries = np.array(turn.queries, dtype=np.int64)
        new, past = (np.array([span[:2] for span in spans]) for spans in (turn.new_spans, turn.held_spans))
        stop, low = new[:, 1:], new[:, :1] - (turn.window or turn.past + turn.new) + 1
        seen = sum(
            np.clip(np.minimum(stop, s[:, 1]) - np.maximum(np.maximum(low, 0), s[:, 0]), 0, None) for s in (past, new)
        )
        self._seen = np.where(self._queries[:, None] > 0, seen, 0)
        window = turn.window or turn.past + turn.new
        self._pairs = sum(
            _causal(new[:, :1], new[:, 1:], s) - _causal(new[:, :1] - window, new[:, 1:] - window, s)
            for s in (past, new)
        )
        self._others = (self._seen > 0) & ~np.eye(turn.ranks, dtype=bool)
        rows = turn.batch * turn.heads * self._queries.astype(np.float64)
        self._query_bytes = rows * turn.head_dim * turn.element_bytes
        self._output_bytes = self._query_bytes + rows * LSE_BYTES
        self._key_bytes = 2.0 * turn.batch * turn.kv_heads * turn.head_dim * turn.element_bytes  # of a token

    def of(self, way: Way) -> _Total:
        """What a strategy takes."""
        if way is Way.KEYS:
            return self._shared(np.ones_like(self._seen, dtype=np.float64))
        if way is Way.QUERIES:
            return self._shared(np.zeros_like(self._seen, dtype=np.float64))
        return self._gathered(way)

    def balanced(self) -> _Total:
        """Keys to near ranks, queries to far ones, half of each to those in the middle."""
        ranks = np.arange(self._turn.ranks)
        apart = 2 * (ranks[:, None] - ranks)
        return self._shared(np.where(apart < len(ranks), 1.0, np.where(apart == len(ranks), 0.5, 0.0)))

    def _shared(self, here: _Numbers) -> _Total:
        """Of each pair of ranks a part is attended where the queries are, and keys travel; else queries do."""
        turn, machine, others = self._turn, self._machine, self._others
        here = np.where(np.eye(turn.ranks, dtype=bool), 1.0, here)
        keys = np.where(others, self._seen * self._key_bytes, 0.0) * here
        away = np.where(others, 1.0 - here, 0.0)
        traffic = keys.T + away * self._query_bytes[:, None] + (away * self._output_bytes[:, None]).T
        near, far = self._attend(here), self._attend(1.0 - here)
        calls = ((self._seen > 0) & (here > 0)).sum(axis=1) + (others & (here < 1)).sum(axis=0)
        merges = others.sum(axis=1)
        by_keys, by_queries = others & (here > 0), others & (here < 1)
        both = (by_keys.astype(np.int64) + by_queries) * 2  # keys and values, or queries and an output
        messages = both.sum(axis=0) + both.sum(axis=1)
        fold = np.array([machine.fold(size) if size else 0.0 for size in self._output_bytes])
        launches = machine.launches
        return _Total(
            traffic,
            near.sum(axis=1) + far.sum(axis=0),
            merges * fold + messages * machine.message_overhead,
            calls * launches.attend + merges * launches.fold + messages * launches.message,
        )

    def _gathered(self, way: Way) -> _Total:
        """Round a ring; of a few tokens outputs, else keys."""
        turn, machine = self._turn, self._machine
        ranks = np.arange(turn.ranks)
        if way is Way.OUTPUTS:
            size = turn.batch * turn.heads * turn.new * (turn.head_dim * FLOAT_BYTES + LSE_BYTES)
            sizes = np.full(turn.ranks, float(size))
            attending = np.array([self._kernel(turn.new, int(count)) for count in self._pairs.sum(axis=0)])
            folding = np.full(turn.ranks, machine.fold(float(sizes.sum() - sizes[0])) if turn.ranks > 1 else 0.0)
            calls = np.ones(turn.ranks)
        else:
            sizes = self._key_bytes * (np.array(turn.held) + self._queries)
            attending = self._attend(np.ones_like(self._seen, dtype=np.float64)).sum(axis=1)
            folding, calls = np.zeros(turn.ranks), (self._seen > 0).sum(axis=1)
        traffic = np.zeros((turn.ranks, turn.ranks))
        if turn.ranks > 1:
            traffic[ranks, (ranks + 1) % turn.ranks] = sizes.sum() - sizes[(ranks + 1) % turn.ranks]
        launches = machine.launches
        return _Total(
            traffic,
            attending,
            folding + 2 * (turn.ranks - 1) * machine.message_overhead,
            calls * launches.attend + launches.fold + launches.collective,
        )

    def _attend(self, share: _Numbers) -> _Numbers:
        """Seconds of the parts of all pairs of ranks; shares of ranks are even, so few of them differ."""
        least = int(self._queries.min())
        pairs = np.rint(self._pairs * share).astype(np.int64)
        kinds, inverse = np.unique(2 * pairs + (self._queries[:, None] > least), return_inverse=True)
        seconds = np.array([self._kernel(least + int(kind) % 2, int(kind) // 2) for kind in kinds])
        result: _Numbers = seconds[inverse.ravel()].reshape(self._pairs.shape)
        return result

    def _kernel(self, queries: int, pairs: int) -> float:
        turn = self._turn
        flops = 4.0 * turn.batch * turn.heads * turn.head_dim * pairs
        return self._machine.attend(Attention(flops, turn.batch * turn.heads, queries)) if pairs else 0.0


def _causal(start: Any, stop: Any, keys: Any) -> Any:
    """Pairs of queries ``start..stop - 1`` and keys of spans that are not behind them."""
    low, many = keys[:, 0], keys[:, 1] - keys[:, 0]

    def until(queries: Any) -> Any:
        within = np.clip(queries, 0, many)
        return within * (within + 1) // 2 + (np.clip(queries, 0, None) - within) * many

    return until(stop - low) - until(start - low)


class _Routes:
    """The links between all pairs of ranks.

    Args:
        network: Rank ``r`` is at its ``r``-th host.
        ranks: How many there are.
    """

    def __init__(self, network: Network, ranks: int) -> None:
        hosts = network.hosts[:ranks]
        numbers: dict[tuple[str, str], int] = {}
        ways: list[list[list[int]]] = []
        for target in hosts:
            known: dict[str, list[int]] = {target: []}
            ways.append([_way(network, source, target, known, numbers) for source in hosts])
        longest = max(1, *(len(way) for column in ways for way in column))
        self._none = len(numbers)
        self._links = np.full((longest, ranks, ranks), self._none, dtype=np.int64)  # [hop, target, source]
        for row, column in enumerate(ways):
            for source, way in enumerate(column):
                self._links[: len(way), row, source] = way
        self._rates = np.array([network.payload_rate(way) for way in numbers] or [1.0])

    def busiest(self, traffic: _Numbers) -> float:
        """Seconds of the link that carries longest; ``traffic`` is bytes ``[source, target]``."""
        loads = np.zeros(self._none + 1)
        for links in self._links:
            loads += np.bincount(links.ravel(), traffic.T.ravel(), minlength=self._none + 1)
        return float((loads[: self._none] / self._rates).max()) if self._none else 0.0


def _way(
    network: Network, node: str, target: str, known: dict[str, list[int]], numbers: dict[tuple[str, str], int]
) -> list[int]:
    """Numbers of the links from a node to a target, whose ways from other nodes are known."""
    path = [node]
    while path[-1] not in known:
        path.append(network.onward(path[-1], target))
    for here, following in reversed([*pairwise(path)]):
        known[here] = [numbers.setdefault((here, following), len(numbers)), *known[following]]
    return known[node]


@lru_cache(maxsize=2)
def _routes(network: Network, ranks: int) -> _Routes:
    return _Routes(network, ranks)
