"""What every rank did in one call of each case: ``timelines.jsonl`` beside the results, one JSON object a case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenring_xdit.bench.plan import Level, lengths_in_words
from tokenring_xdit.bench.records import Record
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import named
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.schedule import Timeline, perfetto

__all__ = [
    "TIMELINES_FILE",
    "TRACE_FILE",
    "CaseTimeline",
    "Traced",
    "add_timeline",
    "keep_recorded",
    "read_timelines",
    "write_trace",
]

TIMELINES_FILE = "timelines.jsonl"
TRACE_FILE = "trace.json"


@dataclass(frozen=True)
class Traced:
    """A traced call of all ranks.

    Attributes:
        timeline: What they did.
        clock_error: By how many seconds the times of a rank may be shifted against those of rank 0.
        schedule: Name of the schedule that ran, where it was one.
    """

    timeline: Timeline
    clock_error: float
    schedule: str | None = None


class CaseTimeline(BaseModel):
    """One call of a case. ``docs/benchmarks.md`` has the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    clock_error: float
    timeline: Timeline

    @classmethod
    def of(cls, record: Record, traced: Traced) -> CaseTimeline:
        """The timeline of a recorded case."""
        return cls(**_case(record), clock_error=traced.clock_error, timeline=traced.timeline)

    def __str__(self) -> str:
        drawn = f"{self.model}, {self.size} pixels, last of {self.steps} steps, " if self.model is not None else ""
        lengths = lengths_in_words(self.tokens, self.queries)
        return (
            f"{self.strategy}, {drawn}{lengths}, {self.heads} heads of {self.head_dim}, "
            f"batch {self.batch}, {self.dtype}, network {self.network}"
        )


_CASE = tuple(name for name in CaseTimeline.model_fields if name not in {"clock_error", "timeline"})


def _case(record: Record) -> dict[str, Any]:
    """What tells cases apart."""
    return {name: getattr(record, name) for name in _CASE}


def add_timeline(path: Path, record: Record, traced: Traced) -> None:
    """Add a case to the file; before its record is written, so that no recorded case lacks one."""
    with path.open("a", encoding="utf-8") as file:
        file.write(CaseTimeline.of(record, traced).model_dump_json() + "\n")


def keep_recorded(path: Path, records: Sequence[Record]) -> None:
    """Drop the timelines of cases without a record, which run again: an interruption left them.

    Raises:
        ConfigurationError: The file is none of a sweep.
    """
    if not path.exists():
        return
    recorded = [_case(record) for record in records]
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = lines if lines and lines[-1].endswith("\n") else lines[:-1]  # the last one may be cut off
    found = [(line, _parsed(path, number, line)) for number, line in enumerate(whole, 1)]
    kept = [line for line, entry in found if entry.model_dump(include=set(_CASE)) in recorded]
    if kept != lines:
        write_whole(path, "".join(kept))


def read_timelines(path: Path) -> tuple[CaseTimeline, ...]:
    """Read the timelines of a sweep.

    Raises:
        ConfigurationError: The file cannot be read, or a line of it is no timeline.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"timelines {path} cannot be read: {error}") from error
    return tuple(_parsed(path, number, line) for number, line in enumerate(lines, 1))


def _parsed(path: Path, number: int, line: str) -> CaseTimeline:
    try:
        return CaseTimeline.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = named(".".join(map(str, first["loc"])) or "the line")
        raise ConfigurationError(
            f"timelines {path}, line {number}: {where}: {first['msg']}; is it the {TIMELINES_FILE} of a sweep?"
        ) from error


def write_trace(path: Path, timelines: Sequence[CaseTimeline]) -> None:
    """Write timelines below each other as one file for Perfetto or Chrome.

    Raises:
        ConfigurationError: There are none.
    """
    if not timelines:
        raise ConfigurationError(f"{path} would be empty: no case of the sweep has a timeline")
    named = [replace(entry.timeline, name=str(entry)) for entry in timelines]
    write_whole(path, json.dumps(perfetto(named)))
