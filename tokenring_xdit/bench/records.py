"""What a sweep leaves behind: one JSON object a case, and a table. ``docs/benchmarks.md`` has the fields."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenring_xdit.bench.plan import Case, Level, lengths_in_words
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import named
from tokenring_xdit.outputs import replacing

__all__ = [
    "RESULTS_FILE",
    "TABLE_FILE",
    "CaseKey",
    "Record",
    "Spread",
    "Status",
    "case_fields",
    "parsed_line",
    "read_lines",
    "read_records",
    "write_table",
]

RESULTS_FILE = "results.jsonl"
TABLE_FILE = "results.csv"


class Status(Enum):
    """How a case ended."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


class _Part(BaseModel):
    """Base of what is in the files of a sweep."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(_Part):
    """Some durations, in seconds.

    Attributes:
        median: The one in the middle.
        lower: Lower quartile.
        upper: Upper quartile.
        rounds: Each of them, in the order of the rounds.
    """

    median: float
    lower: float
    upper: float
    rounds: tuple[float, ...] = Field(min_length=1)

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Sum durations up."""
        ordered = tuple(seconds)
        if len(ordered) == 1:
            return cls(median=ordered[0], lower=ordered[0], upper=ordered[0], rounds=ordered)
        lower, median, upper = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median=median, lower=lower, upper=upper, rounds=ordered)


class CaseKey(_Part):
    """What tells a case from others of its sweep."""

    strategy: str
    ranks: int
    tokens: int
    queries: int | None = None
    heads: int
    head_dim: int
    batch: int
    dtype: str
    network: str
    level: str = Level.ATTENTION.value
    model: str | None = None
    size: str | None = None
    steps: int | None = None


class Record(CaseKey):
    """A case and what was found; figures are ``None`` where it did not run to its end."""

    version: int = 1
    prompt: str | None = None
    guidance: float | None = None
    kv_heads: int | None = None
    answer: int | None = None
    chunk: int | None = None
    text_file: str | None = None
    rate: float | None = None
    requests: int | None = None
    rounds: int
    seed: int
    status: Status
    error: str | None = None
    seconds: Spread | None = None
    compute_seconds: Spread | None = None
    exposed_seconds: Spread | None = None
    attention_seconds: Spread | None = None
    p95_seconds: Spread | None = None
    first_step_seconds: Spread | None = None
    per_request_seconds: Spread | None = None
    schedule: str | None = None
    max_error: float | None = None
    checked_rows: int | None = None
    bytes_sent: tuple[int, ...] | None = None
    link_bytes: tuple[dict[str, dict[str, int]], ...] | None = None
    peak_bytes: tuple[int, ...] | None = None
    peak_measure: str | None = None
    keys_held: tuple[int, ...] | None = None
    same_answer: bool | None = None
    beside: tuple[str, ...] = ()
    network_share: float | None = None
    load_at_start: float | None = None
    machine: dict[str, Any] = {}
    command: str = ""
    finished: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells cases apart, in one sweep and between two."""
        return (
            self.network,
            self.ranks,
            self.tokens,
            self.queries,
            self.heads,
            self.head_dim,
            self.batch,
            self.dtype,
            self.strategy,
            self.level,
            self.model,
            self.size,
            self.steps,
            self.rate,
            self.requests,
            self.chunk,
        )

    @property
    def num_queries(self) -> int:
        """How many tokens ask."""
        return self.tokens if self.queries is None else self.queries

    @property
    def problem(self) -> str:
        """What all strategies of its comparison work on, for people."""
        drawn = ""
        if self.level == Level.PIPELINE.value:
            drawn = f"{self.model}, {self.size} pixels, {self.steps} step{'' if self.steps == 1 else 's'}, "
        elif self.level == Level.SERVICE.value:
            drawn = (
                f"{self.model} served, {self.size} pixels, {self.steps} steps, {self.rate or 0:g} requests a second, "
            )
        elif self.level == Level.TEXT.value:
            drawn = f"{self.model}, "
        lengths = lengths_in_words(self.tokens, self.queries)
        lengths += "" if self.chunk is None else f" in chunks of {self.chunk}"
        return (
            f"{drawn}{lengths}, {self.heads} heads of {self.head_dim}, batch {self.batch}, "
            f"{self.dtype}, {self.ranks} ranks, network {self.network}"
        )

    def __str__(self) -> str:
        return f"{self.strategy}, {self.problem}"


def case_fields(case: Case, network: str, rounds: int, seed: int) -> dict[str, Any]:
    """The fields of a record that are known before it runs."""
    return {
        "strategy": str(case.strategy),
        **vars(case.shape),
        "level": case.shape.level.value,
        "network": network,
        "rounds": rounds,
        "seed": seed,
    }


def read_records(path: Path) -> tuple[Record, ...]:
    """Read the results of a sweep.

    Raises:
        ConfigurationError: The file cannot be read, or a line of it is no record.
    """
    return read_lines(path, Record, RESULTS_FILE)


_Line = TypeVar("_Line", bound=BaseModel)


def read_lines(path: Path, kind: type[_Line], usual: str) -> tuple[_Line, ...]:
    """Read a file of a sweep that has one JSON object a line.

    Args:
        path: The file.
        kind: What a line is.
        usual: What such a file is called by a sweep.

    Raises:
        ConfigurationError: It cannot be read, or a line of it is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{Path(usual).stem} {path} cannot be read: {error}") from error
    return tuple(parsed_line(path, number, line, kind, usual) for number, line in enumerate(lines, 1))


def parsed_line(path: Path, number: int, line: str, kind: type[_Line], usual: str) -> _Line:
    """One line of :func:`read_lines`, of this number."""
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = named(".".join(map(str, first["loc"])) or "the line")
        raise ConfigurationError(
            f"{Path(usual).stem} {path}, line {number}: {where}: {first['msg']}; is it the {usual} of a sweep?"
        ) from error


_CASE = (
    *("strategy", "level", "model", "size", "steps", "rate", "requests"),
    *("ranks", "tokens", "queries", "heads", "head_dim", "batch", "dtype", "network", "rounds", "seed"),
)


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Write the figures of records as CSV: seconds, bytes of the rank that has most."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        figures = ["median_s", "lower_quartile_s", "upper_quartile_s", "compute_s", "exposed_s", "attention_s"]
        figures += ["p95_s", "first_step_s", "per_request_s"]
        writer.writerow((*_CASE, "schedule", "status", *figures, "max_error", "bytes_sent", "peak_bytes", "error"))
        for record in records:
            seconds = record.seconds
            shares = [record.compute_seconds, record.exposed_seconds, record.attention_seconds]
            shares += [record.p95_seconds, record.first_step_seconds, record.per_request_seconds]
            writer.writerow(
                (
                    *(getattr(record, name) for name in _CASE),
                    record.schedule,
                    record.status.value,
                    *((seconds.median, seconds.lower, seconds.upper) if seconds else (None,) * 3),
                    *(share.median if share else None for share in shares),
                    record.max_error,
                    max(record.bytes_sent) if record.bytes_sent else None,
                    max(record.peak_bytes) if record.peak_bytes else None,
                    record.error,
                )
            )
