"""What a sweep measures: attention problems, strategies for them, and which of the two go together."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from tokenring_xdit.errors import ConfigurationError, ScheduleError, nearest
from tokenring_xdit.schedule import Spelled, build, parse

__all__ = ["Case", "Shape", "Strategy", "StrategyKind"]


class StrategyKind(Enum):
    """Who computes attention, and how."""

    SINGLE = "single"
    ULYSSES = "ulysses"
    XFUSER_RING = "xfuser-ring"
    XFUSER_RING_ALLTOALL = "xfuser-ring-alltoall"
    SCHEDULE = "schedule"

    @property
    def upstream(self) -> bool:
        """Whether it is xfuser's own."""
        return self in {self.ULYSSES, self.XFUSER_RING, self.XFUSER_RING_ALLTOALL}


@dataclass(frozen=True)
class Strategy:
    """One way to compute attention.

    Attributes:
        kind: Whose.
        schedule: Of :attr:`StrategyKind.SCHEDULE`; ``None`` for the others.
    """

    kind: StrategyKind
    schedule: Spelled | None = None

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """Read ``ulysses``, ``schedule:direct:chunks=4`` and so on.

        Raises:
            ConfigurationError: There is no such strategy.
            ScheduleError: There is no such schedule.
        """
        name, colon, rest = text.partition(":")
        if name == StrategyKind.SCHEDULE.value and rest:
            return cls(StrategyKind.SCHEDULE, parse(rest))
        plain = {kind.value: kind for kind in StrategyKind if kind is not StrategyKind.SCHEDULE}
        if colon or name not in plain:
            hint = ""
            with suppress(ScheduleError):
                hint = f" Did you mean 'schedule:{parse(text)}'?"
            known = nearest(text, [*plain, "schedule:NAME"])
            raise ConfigurationError(f"there is no strategy '{text}'.{hint or ' ' + known}")
        return cls(plain[name])

    def __str__(self) -> str:
        return self.kind.value if self.schedule is None else f"{self.kind.value}:{self.schedule}"


@dataclass(frozen=True)
class Shape:
    """An attention problem, the same for all strategies of a comparison.

    Attributes:
        ranks: Ranks that share it.
        tokens: Length of the whole sequence.
        heads: Heads of queries, keys and values.
        head_dim: Width of a head.
        batch: Items.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
    """

    ranks: int
    tokens: int
    heads: int
    head_dim: int
    batch: int
    dtype: str

    def lengths(self) -> tuple[int, ...]:
        """Tokens of each rank, as even as can be, the longer ones first."""
        short, longer = divmod(self.tokens, self.ranks)
        return tuple(short + (rank < longer) for rank in range(self.ranks))

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens, {self.heads} heads of {self.head_dim}, batch {self.batch}, {self.dtype}, "
            f"{self.ranks} ranks"
        )


@dataclass(frozen=True)
class Case:
    """A strategy on a problem.

    Attributes:
        shape: The problem.
        strategy: The strategy.
    """

    shape: Shape
    strategy: Strategy

    def refusal(self) -> str | None:
        """Why the strategy does not take the problem, or ``None`` where it does; nothing is started to know that."""
        kind, shape = self.strategy.kind, self.shape
        if kind.upstream and shape.tokens % shape.ranks:
            return (
                f"{kind.value} needs equal shards, and {shape.tokens} tokens do not divide by {shape.ranks} ranks: "
                "use another length, or a schedule"
            )
        if kind is StrategyKind.ULYSSES and shape.heads % shape.ranks:
            return (
                f"ulysses shards heads, and {shape.heads} heads do not divide by {shape.ranks} ranks: use another "
                "number of ranks or heads, or a schedule"
            )
        if self.strategy.schedule is not None:
            try:
                build(str(self.strategy.schedule), shape.ranks, heads=shape.heads)
            except ScheduleError as error:
                return str(error)
        return None
