"""What every rank did in one call of each case: ``timelines.jsonl`` beside the results, one JSON object a case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenring_xdit.bench.plan import lengths_in_words
from tokenring_xdit.bench.records import CaseKey, Record, parsed_line, read_lines
from tokenring_xdit.errors import ConfigurationError
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


class CaseTimeline(CaseKey):
    """One call of a case. ``docs/benchmarks.md`` has the fields."""

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


def _case(case: CaseKey) -> dict[str, Any]:
    return {name: getattr(case, name) for name in CaseKey.model_fields}


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
    found = [parsed_line(path, number, line, CaseTimeline, TIMELINES_FILE) for number, line in enumerate(whole, 1)]
    kept = [line for line, entry in zip(whole, found, strict=True) if _case(entry) in recorded]
    if kept != lines:
        write_whole(path, "".join(kept))


def read_timelines(path: Path) -> tuple[CaseTimeline, ...]:
    """Read the timelines of a sweep.

    Raises:
        ConfigurationError: The file cannot be read, or a line of it is no timeline.
    """
    return read_lines(path, CaseTimeline, TIMELINES_FILE)


def write_trace(path: Path, timelines: Sequence[CaseTimeline]) -> None:
    """Write timelines below each other as one file for Perfetto or Chrome.

    Raises:
        ConfigurationError: There are none.
    """
    if not timelines:
        raise ConfigurationError(f"{path} would be empty: no case of the sweep has a timeline")
    named = [replace(entry.timeline, name=str(entry)) for entry in timelines]
    write_whole(path, json.dumps(perfetto(named)))
