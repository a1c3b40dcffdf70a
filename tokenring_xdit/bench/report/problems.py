"""Which records belong into one plot: those of one setting, over lengths, over ranks, or of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokenring_xdit.bench.records import CaseKey, Record
from tokenring_xdit.bench.report.measures import call_time

__all__ = ["Axis", "ProblemView", "Setting", "latest", "level_of", "machines", "problem_of", "setting_of", "views"]


class Axis(Enum):
    """What a plot has along its x axis."""

    TOKENS = "tokens"
    RANKS = "ranks"
    SHARDS = "shards"
    """Ranks that hold as many tokens each, however many there are."""
    SHAPE = "shape"
    """Nothing: one length on one number of ranks, a bar for each strategy."""


@dataclass(frozen=True, order=True)
class Setting:
    """What is the same for all figures of a plot; never are two settings mixed in one.

    Attributes:
        level: ``attention``, or ``pipeline`` for whole pipelines.
        model: Model of pipelines.
        network: As in the record.
        queries: Likewise; 0 where all tokens ask.
        heads: Likewise.
        head_dim: Likewise.
        batch: Likewise.
        dtype: Likewise.
        machine: Number of the machine in :func:`machines`, from 1; 0 where the records have one machine only.
    """

    level: str
    model: str
    network: str
    queries: int
    heads: int
    head_dim: int
    batch: int
    dtype: str
    machine: int = 0

    @classmethod
    def of(cls, case: CaseKey, machine: int = 0) -> Setting:
        """The setting of a case, on a machine."""
        model, num_queries = case.model or "", case.queries or 0
        return cls(
            case.level, model, case.network, num_queries, case.heads, case.head_dim, case.batch, case.dtype, machine
        )

    def __str__(self) -> str:
        what = f"{self.level} {self.model}".strip()
        where = "this machine's loopback" if self.network == "none" else self.network
        machine = f", machine {self.machine}" if self.machine else ""
        num_queries = f"{self.queries} queries, " if self.queries else ""
        heads = f"{self.heads} heads of {self.head_dim}"
        return f"{what} on {where}: {num_queries}{heads}, batch {self.batch}, {self.dtype}{machine}"


@dataclass(frozen=True)
class ProblemView:
    """Records that are plotted together.

    Attributes:
        setting: What is the same for all of them.
        axis: What differs, besides the strategy.
        ranks: Their number; ``None`` along :attr:`Axis.RANKS` and :attr:`Axis.SHARDS`.
        tokens: Their length, along :attr:`Axis.SHARDS` that of one rank; ``None`` along :attr:`Axis.TOKENS`.
        records: Those that ran, one for each strategy and place on the axis.
    """

    setting: Setting
    axis: Axis
    ranks: int | None
    tokens: int | None
    records: tuple[Record, ...]

    def __str__(self) -> str:
        if self.axis is Axis.TOKENS:
            return f"over sequence lengths, {_ranks(self.ranks)}"
        if self.axis is Axis.RANKS:
            return f"over ranks, {self.tokens} tokens"
        if self.axis is Axis.SHARDS:
            return f"over ranks, {self.tokens} tokens on each"
        return f"{self.tokens} tokens, {_ranks(self.ranks)}"

    def at(self, record: Record) -> int:
        """Where a record is on the axis; 0 where there is none."""
        ranks = record.ranks
        return {Axis.TOKENS: record.tokens, Axis.RANKS: ranks, Axis.SHARDS: ranks, Axis.SHAPE: 0}[self.axis]

    @property
    def places(self) -> tuple[int, ...]:
        """The places on the axis that have a record."""
        return tuple(sorted({self.at(record) for record in self.records}))

    @property
    def strategies(self) -> tuple[str, ...]:
        """Strategies, the fastest at the last place of the axis first."""
        last: dict[str, tuple[int, float]] = {}
        for record in self.records:
            time = call_time(record)
            if time is not None and self.at(record) >= last.get(record.strategy, (0, 0.0))[0]:
                last[record.strategy] = (self.at(record), time.middle)
        return tuple(sorted(last, key=lambda name: (-last[name][0], last[name][1], name)))

    def find(self, strategy: str, place: int) -> Record | None:
        """The record of a strategy at a place, if it ran there."""
        return next((r for r in self.records if (r.strategy, self.at(r)) == (strategy, place)), None)


def _ranks(count: int | None) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def level_of(record: Record) -> tuple[str, str]:
    """What was measured, ``attention`` or ``pipeline``, and the pipeline's model."""
    return record.level, record.model or ""


def machines(records: Sequence[Record]) -> tuple[tuple[Any, ...], ...]:
    """The machines that records come from, as CPU, cores and device, in order of appearance."""
    return tuple(dict.fromkeys(_machine(record) for record in records if record.machine))


def _machine(record: Record) -> tuple[Any, ...]:
    return tuple(str(record.machine.get(name, "")) for name in ("cpu", "cores", "device"))


def setting_of(record: Record, known: Sequence[tuple[Any, ...]]) -> Setting:
    """The setting of a record.

    Args:
        record: The record.
        known: The :func:`machines` of all records.
    """
    number = known.index(_machine(record)) + 1 if len(known) > 1 and record.machine else 0
    return Setting.of(record, number)


def problem_of(record: Record, known: Sequence[tuple[Any, ...]]) -> tuple[Setting, int, int]:
    """Setting, ranks and tokens of a record: strategies on one problem are compared."""
    return setting_of(record, known), record.ranks, record.tokens


def latest(records: Sequence[Record]) -> tuple[Record, ...]:
    """Records with every case once: where a file has one twice, the last counts."""
    known = machines(records)
    return tuple({(*problem_of(record, known), record.strategy): record for record in records}.values())


def views(records: Sequence[Record]) -> tuple[ProblemView, ...]:
    """All ways to plot records, setting by setting: over lengths, over ranks, then single shapes.

    Shards of one length on several numbers of ranks are a view of records that are in no view over lengths or ranks.

    The most ranks and the longest sequence come first; a setting of one length and one number of ranks has one view.

    Args:
        records: Each case once; those that did not run are left out.
    """
    known = machines(records)
    settings: dict[Setting, list[Record]] = {}
    for record in records:
        if call_time(record) is not None:
            settings.setdefault(setting_of(record, known), []).append(record)
    found: list[ProblemView] = []
    for setting, ran in settings.items():
        for ranks in sorted({record.ranks for record in ran}, reverse=True):
            here = tuple(record for record in ran if record.ranks == ranks)
            if len({record.tokens for record in here}) > 1:
                found.append(ProblemView(setting, Axis.TOKENS, ranks, None, here))
        for tokens in sorted({record.tokens for record in ran}, reverse=True):
            here = tuple(record for record in ran if record.tokens == tokens)
            if len({record.ranks for record in here}) > 1:
                found.append(ProblemView(setting, Axis.RANKS, None, tokens, here))
        over = {id(record) for view in found for record in view.records}
        alone = [record for record in ran if id(record) not in over and not record.tokens % record.ranks]
        for each in sorted({record.tokens // record.ranks for record in alone}, reverse=True):
            here = tuple(record for record in alone if record.tokens == each * record.ranks)
            if len({record.ranks for record in here}) > 1:
                found.append(ProblemView(setting, Axis.SHARDS, None, each, here))
        for ranks, tokens in sorted({(record.ranks, record.tokens) for record in ran}, reverse=True):
            here = tuple(record for record in ran if (record.ranks, record.tokens) == (ranks, tokens))
            found.append(ProblemView(setting, Axis.SHAPE, ranks, tokens, here))
    return tuple(found)
