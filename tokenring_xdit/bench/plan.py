"""What a sweep measures: attention problems, strategies for them, and which of the two go together."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.messages import named, shown
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.planning import even_shares
from tokenring_xdit.schedule import Auto, ScheduleSpec, build, parse
from tokenring_xdit.spec import unknown

__all__ = ["CallShape", "Case", "Level", "Strategy", "StrategyKind", "lengths_in_words"]


class Level(Enum):
    """What is measured of a strategy."""

    ATTENTION = "attention"
    PIPELINE = "pipeline"
    TEXT = "text"
    SERVICE = "service"


class StrategyKind(Enum):
    """Who computes attention, and how."""

    SINGLE = "single"
    ULYSSES = "ulysses"
    XFUSER_RING = "xfuser-ring"
    XFUSER_RING_ALLTOALL = "xfuser-ring-alltoall"
    DIFFUSERS_ULYSSES = "diffusers-ulysses"
    """Diffusers' own context parallel, of whole models."""
    DIFFUSERS_RING = "diffusers-ring"
    SCHEDULE = "schedule"
    BALANCED = "balanced"
    """What a parallel language model does by default."""
    PASS_KV = "pass-kv"
    PASS_Q = "pass-q"
    GATHER_KV = "gather-kv"
    """All keys on every rank, as training libraries have it; for comparison only."""

    @property
    def of_text(self) -> bool:
        """Whether it is for language models only."""
        return self in {self.BALANCED, self.PASS_KV, self.PASS_Q, self.GATHER_KV}

    @property
    def of_diffusers(self) -> bool:
        """Whether it is diffusers' own, without xfuser."""
        return self in {self.DIFFUSERS_ULYSSES, self.DIFFUSERS_RING}

    @property
    def upstream(self) -> bool:
        """Whether it is xfuser's own."""
        return self in {self.ULYSSES, self.XFUSER_RING, self.XFUSER_RING_ALLTOALL}


_ULYSSES_PREFIX = "ulysses="
_CAPTURED_PREFIX = "captured+"
_WITH_ULYSSES = (StrategyKind.XFUSER_RING, StrategyKind.XFUSER_RING_ALLTOALL, StrategyKind.SCHEDULE)


@dataclass(frozen=True)
class Strategy:
    """One way to compute attention.

    Attributes:
        kind: Whose.
        schedule: Of :attr:`StrategyKind.SCHEDULE`, which may be chosen for the shapes; ``None`` for the others.
        ulysses: Ranks of a hybrid that share heads, as many times as there are ranks to share the sequence by
            ``kind``; 1 where it is no hybrid.
        captured: Whether calls are captured as a CUDA graph, and replayed.
    """

    kind: StrategyKind
    schedule: ScheduleSpec | Auto | None = None
    ulysses: int = 1
    captured: bool = False

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """Read ``ulysses``, ``schedule:direct:chunks=4``, ``captured+ulysses=2+xfuser-ring`` and so on.

        Raises:
            ConfigurationError: There is no such strategy.
            ScheduleError: There is no such schedule.
        """
        if text.startswith(_CAPTURED_PREFIX):
            inner = cls.parse(text.removeprefix(_CAPTURED_PREFIX))
            if inner.captured or inner.kind is StrategyKind.SINGLE:
                raise ConfigurationError(
                    f"{shown(text)}: what is captured are calls of several ranks, as in "
                    f"'{_CAPTURED_PREFIX}{StrategyKind.ULYSSES.value}'"
                )
            return replace(inner, captured=True)
        if text.startswith(_ULYSSES_PREFIX):
            return cls._parse_hybrid(text)
        name, colon, rest = text.partition(":")
        if name == StrategyKind.SCHEDULE.value and rest:
            return cls(StrategyKind.SCHEDULE, Auto.parse(rest) or parse(rest))
        plain = {kind.value: kind for kind in StrategyKind if kind is not StrategyKind.SCHEDULE}
        if colon or name not in plain:
            hint = ""
            with suppress(ScheduleError):
                hint = f" Did you mean 'schedule:{parse(text)}'?"
            known = [*plain, "schedule:NAME", "ulysses=N+schedule:NAME", "ulysses=N+xfuser-ring"]
            raise ConfigurationError(
                f"there is no strategy {shown(text)}.{hint}" if hint else unknown("strategy", text, known)
            )
        return cls(plain[name])

    @classmethod
    def _parse_hybrid(cls, text: str) -> Strategy:
        number, plus, rest = text.removeprefix(_ULYSSES_PREFIX).partition("+")
        if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) >= 2):
            raise ConfigurationError(
                f"{shown(text)}: a hybrid needs a number of ranks for Ulysses, 2 or more, as in "
                "'ulysses=2+schedule:NAME'"
            )
        if not plus:
            raise ConfigurationError(
                f"{shown(text)} does not say what the other ranks do: use 'ulysses' for all of them, or "
                f"'{named(text)}+schedule:NAME' or '{named(text)}+xfuser-ring' for a hybrid"
            )
        inner = cls.parse(rest)
        if inner.kind not in _WITH_ULYSSES or inner.ulysses > 1 or inner.captured:
            raise ConfigurationError(
                f"{shown(text)}: {shown(rest)} cannot be combined with Ulysses; these can: schedule:NAME, "
                "xfuser-ring, xfuser-ring-alltoall"
            )
        return cls(inner.kind, inner.schedule, int(number))

    @property
    def launched(self) -> Strategy:
        """The same, with calls as they are."""
        return replace(self, captured=False)

    @property
    def through_usp(self) -> bool:
        """Whether attention runs through xfuser's ``USP``, which needs equal shards."""
        return self.kind.upstream or self.ulysses > 1

    def dims(self, ranks: int) -> ParallelDims:
        """How it divides ranks; one rank is not divided.

        Raises:
            ScheduleError: The schedule is not defined for this number of ranks.
        """
        if self.kind is StrategyKind.SINGLE:
            return ParallelDims()
        if self.kind is StrategyKind.ULYSSES:
            return ParallelDims(ulysses=ranks)
        along = ranks // self.ulysses
        if self.schedule is not None:
            return ParallelDims(ulysses=self.ulysses, tokenring=along, schedule=str(self.schedule))
        return ParallelDims(ulysses=self.ulysses, ring=along)

    def __str__(self) -> str:
        name = self.kind.value if self.schedule is None else f"{self.kind.value}:{self.schedule}"
        name = name if self.ulysses == 1 else f"{_ULYSSES_PREFIX}{self.ulysses}+{name}"
        return f"{_CAPTURED_PREFIX}{name}" if self.captured else name


def lengths_in_words(tokens: int, queries: int | None) -> str:
    """The length of a sequence, and how many of its tokens ask where not all do."""
    return f"{tokens} tokens" if queries is None else f"{tokens} tokens, {queries} queries"


@dataclass(frozen=True)
class CallShape:
    """An attention problem, the same for all strategies of a comparison.

    Attributes:
        ranks: Ranks that share it.
        tokens: Length of the whole sequence.
        queries: How many of the tokens ask, where not all do, as where a part of a picture at a time is renewed.
        heads: Heads of queries, keys and values.
        head_dim: Width of a head.
        batch: Items.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
    """

    level: ClassVar[Level] = Level.ATTENTION

    ranks: int
    tokens: int
    queries: int | None
    heads: int
    head_dim: int
    batch: int
    dtype: str

    def lengths(self) -> tuple[int, ...]:
        """Keys of each rank, as even as can be, the longer ones first."""
        return even_shares(self.tokens, self.ranks)

    def query_lengths(self) -> tuple[int, ...]:
        """Queries of each rank, likewise."""
        return even_shares(self.tokens if self.queries is None else self.queries, self.ranks)

    def refusal(self, strategy: Strategy) -> str | None:
        """Why a strategy does not take the problem, or ``None`` where it does."""
        if strategy.kind.of_text:
            return f"{strategy} is for language models: use it with level text, or schedule:NAME"
        if strategy.kind.of_diffusers:
            return f"{strategy} spreads whole models: use it with level pipeline, or ulysses and xfuser-ring"
        if strategy.through_usp:
            for count, what in ((self.tokens, "tokens"), (self.queries or 0, "queries")):
                if count % self.ranks:
                    return (
                        f"{strategy} needs equal shards, and {count} {what} do not divide by {self.ranks} ranks: "
                        "use another length, or a schedule"
                    )
        return self.refusal_of_degrees(strategy)

    def refusal_of_degrees(self, strategy: Strategy) -> str | None:
        """Why a strategy does not take these numbers of ranks and heads, or ``None`` where it does."""
        shared = self.ranks if strategy.kind is StrategyKind.ULYSSES else strategy.ulysses
        if strategy.ulysses > 1 and (self.ranks % shared or self.ranks == shared):
            return (
                f"{strategy} does not fit {self.ranks} ranks: the {shared} of Ulysses have to divide them and leave "
                "at least 2 for the rest"
            )
        if self.heads % shared:
            return (
                f"{strategy} shards heads, and {self.heads} heads do not divide by {shared} ranks: use another "
                "number of ranks or heads, or a schedule"
            )
        if isinstance(strategy.schedule, ScheduleSpec):
            try:
                build(str(strategy.schedule), self.ranks // shared, heads=self.heads // shared)
            except ScheduleError as error:
                return str(error)
        return None

    def __str__(self) -> str:
        lengths = lengths_in_words(self.tokens, self.queries)
        return f"{lengths}, {self.heads} heads of {self.head_dim}, batch {self.batch}, {self.dtype}, {self.ranks} ranks"


@dataclass(frozen=True)
class Case:
    """A strategy on a problem.

    Attributes:
        shape: The problem.
        strategy: The strategy.
    """

    shape: CallShape
    strategy: Strategy

    def refusal(self) -> str | None:
        """Why the strategy does not take the problem, or ``None`` where it does; nothing is started to know that."""
        return self.shape.refusal(self.strategy)
