"""Attention of one layer of a language model: new tokens, and those that were computed before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tokenring_xdit.planning.pairs import Plan, plan_pairs
from tokenring_xdit.planning.placement import Held, Placement
from tokenring_xdit.planning.straight import Way, straight
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.problem import Problem

__all__ = ["FLOAT_BYTES", "LayerTurn", "StrategyForecast", "few_tokens"]

FLOAT_BYTES = 4
"""Of outputs that are gathered."""

_FEW = 16


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

    @cached_property
    def _before(self) -> Placement:
        empty = Placement(self.ranks)
        return empty.plus(empty.split(self.past))

    @cached_property
    def new_spans(self) -> tuple[Held, ...]:
        """New tokens of each rank."""
        return tuple(self._before.split(self.new))

    @cached_property
    def held_spans(self) -> tuple[Held, ...]:
        """Tokens of each rank that were computed before."""
        return tuple(Placement(self.ranks).split(self.past))

    @property
    def queries(self) -> tuple[int, ...]:
        """How many new tokens each rank has."""
        return tuple(span.stop - span.start for span in self.new_spans)

    @property
    def held(self) -> tuple[int, ...]:
        """How many tokens of each rank were computed before."""
        return tuple(span.stop - span.start for span in self.held_spans)

    @cached_property
    def plan(self) -> Plan:
        """Who sees what."""
        queries = tuple((span.start, span.stop) for span in self.new_spans)
        return plan_pairs(self._before.plus(self.new_spans), queries, self.window)

    def programs(self, way: Way) -> tuple[RankProgram, ...]:
        """What each rank does."""
        everywhere = way is Way.OUTPUTS
        return straight(
            way,
            self.plan,
            Problem(
                (self.new,) * self.ranks if everywhere else self.queries,
                self.plan.held,
                self.heads,
                self.kv_heads,
                self.head_dim,
                self.batch,
                self.element_bytes,
                FLOAT_BYTES if everywhere else self.element_bytes,
            ),
        )


@dataclass(frozen=True)
class StrategyForecast:
    """A strategy, and what is predicted of it for one layer: of very many ranks what it takes at least.

    Attributes:
        name: As ``prefill=`` of ``parallelize`` takes it, where it is one of those.
        seconds: Seconds of the layer's attention.
        exposed: Of these, seconds of exposed communication: those in which the rank that attends longest does not.
        sent: Bytes of the rank that sends most.
        ours: Whether a parallel model can do it; others are there to be compared with.
    """

    name: str
    seconds: float
    exposed: float
    sent: int
    ours: bool = True
