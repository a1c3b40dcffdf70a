"""What every rank did when, in one attention call: simulated or measured, in one form.

:mod:`~tokenring_xdit.planning.simulate` makes one without running anything, the executor of
:mod:`tokenring_xdit.attention` one of what it did. Both open in Perfetto or Chrome (``chrome://tracing``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

__all__ = ["Activity", "Span", "Timeline", "perfetto"]


_LANES = 1000
"""More rows than a rank has: numbers of threads are then unlike each other and unlike those of processes."""


class Activity(Enum):
    """What a rank, or one of its links, was busy with."""

    SEND = "send"
    RECEIVE = "receive"
    WAIT = "wait"
    ATTEND = "attend"
    MERGE = "merge"

    @property
    def transfers(self) -> bool:
        """Whether it goes on beside the rank's own work."""
        return self is Activity.SEND or self is Activity.RECEIVE


@dataclass(frozen=True)
class Span:
    """A stretch of time of one rank.

    Attributes:
        rank: Whose.
        activity: What it did.
        start: Seconds since the call began, on one clock for all ranks.
        end: The same for its end.
        what: The blocks, for people: ``Q[1]``, or ``Q[1] to KV[0]``.
        channel: Name of the channel of a transfer; empty otherwise.
        peer: Other side of a transfer, ``None`` otherwise.
        size: Bytes of a transfer; 0 otherwise.
    """

    rank: int
    activity: Activity
    start: float
    end: float
    what: str
    channel: str = ""
    peer: int | None = None
    size: int = 0


@dataclass(frozen=True)
class Timeline:
    """Spans of all ranks.

    Attributes:
        name: The strategy.
        world_size: Number of ranks.
        spans: In any order. A rank's own work (attend, merge, wait) does not overlap, its transfers may.
    """

    name: str
    world_size: int
    spans: tuple[Span, ...]

    @property
    def makespan(self) -> float:
        """Seconds until the last rank's own work is done."""
        return max((span.end for span in self.spans if not span.activity.transfers), default=0.0)

    def busy(self, rank: int, activity: Activity) -> float:
        """Seconds that a rank spent so; where transfers overlap, the time in which there was any."""
        total, until = 0.0, float("-inf")
        for start, end in sorted((s.start, s.end) for s in self.spans if (s.rank, s.activity) == (rank, activity)):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dictionaries, ready for JSON."""
        spans = [{**asdict(span), "activity": span.activity.value} for span in self.spans]
        return {"name": self.name, "world_size": self.world_size, "spans": spans}


def perfetto(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """Timelines in Chrome's trace event format, which Perfetto opens: a process for each rank of each timeline.

    Args:
        timelines: One or several, which then stand below each other.

    Returns:
        What to write as JSON. Times there are microseconds.
    """
    events: list[dict[str, Any]] = []
    first = 1  # viewers take 0 for the idle process
    for timeline in timelines:
        for rank in range(timeline.world_size):
            events += _process(timeline, rank, first + rank)
        first += timeline.world_size
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _process(timeline: Timeline, rank: int, process: int) -> list[dict[str, Any]]:
    named = {"ph": "M", "pid": process}
    events: list[dict[str, Any]] = [
        {**named, "name": "process_name", "args": {"name": f"{timeline.name}: rank {rank}"}},
        {**named, "name": "process_sort_index", "args": {"sort_index": process}},
    ]
    for number, (lane, spans) in enumerate(_lanes([span for span in timeline.spans if span.rank == rank])):
        thread = process * _LANES + number
        events.append({**named, "tid": thread, "name": "thread_name", "args": {"name": lane}})
        events.append({**named, "tid": thread, "name": "thread_sort_index", "args": {"sort_index": number}})
        for span in spans:
            details = {"channel": span.channel, "peer": span.peer, "bytes": span.size} if span.channel else {}
            events.append(
                {
                    "ph": "X",
                    "pid": process,
                    "tid": thread,
                    "name": f"{span.activity.value} {span.what}".strip(),
                    "cat": span.activity.value,
                    "ts": _nanoseconds(span.start) / 1e3,
                    "dur": (_nanoseconds(span.end) - _nanoseconds(span.start)) / 1e3,
                    "args": details,
                }
            )
    return events


def _nanoseconds(seconds: float) -> int:
    """What viewers calculate in: whatever is rounded before does not overlap after."""
    return round(seconds * 1e9)


def _lanes(spans: Sequence[Span]) -> list[tuple[str, list[Span]]]:
    """Spans of a rank in rows in which none overlaps: its own work first, then transfers by way and channel."""
    rows: dict[tuple[int, str], list[list[Span]]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        group = (0, "rank")
        if span.activity.transfers:
            group = (1 if span.activity is Activity.SEND else 2, f"{span.activity.value} {span.channel}")
        free = next((row for row in rows[group] if _nanoseconds(row[-1].end) <= _nanoseconds(span.start)), None)
        if free is None:
            rows[group].append([span])
        else:
            free.append(span)
    return [(name, row) for (_, name), found in sorted(rows.items()) for row in found]
