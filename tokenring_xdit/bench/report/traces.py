"""Timelines of a sweep, and where each of their spans is drawn: a group of lanes for each rank."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenring_xdit.bench.report.palette import Hue
from tokenring_xdit.bench.report.problems import Setting
from tokenring_xdit.bench.timelines import read_timelines
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule.timeline import Activity, Span, Timeline

__all__ = [
    "KindLook",
    "PlotArea",
    "TracePlot",
    "boxes",
    "kind_of",
    "kinds",
    "look_of",
    "read_traces",
    "shares",
]

_WORK = (0.29, 0.71)
_SENDS, _RECEIVES = (0.07, 0.26), (0.74, 0.93)
"""Top and bottom of a rank's lanes, of the height that it has: what it sends above its own work, what it gets below."""


@dataclass(frozen=True)
class KindLook:
    """How spans of a kind are drawn, and what they are called."""

    hue: Hue
    words: str


_KINDS = {
    "attend": KindLook(Hue("#2F6FB0", "#5B9FE3"), "attends"),
    "merge": KindLook(Hue("#7B4FA3", "#B58BE0"), "merges"),
    "wait": KindLook(Hue("#B9C0C9", "#59626E"), "waits"),
    "q": KindLook(Hue("#C77700", "#F0A83A"), "queries"),
    "kv": KindLook(Hue("#00816A", "#2FC7A8"), "keys and values"),
    "o": KindLook(Hue("#B8336A", "#F07AA8"), "partial outputs"),
    "nodes": KindLook(Hue("#5A5A00", "#C9C95A"), "keys between nodes"),
}
_OTHER_HUE = Hue("#6B7785", "#98A3B1")

_MOST_ROWS = 8  # of simultaneous transfers that have rows of their own in a lane


@dataclass(frozen=True)
class TracePlot:
    """The timeline of a case.

    Attributes:
        setting: Setting of the case.
        ranks: Ranks of the case.
        tokens: Tokens of the case.
        strategy: Strategy of the case.
        timeline: Who did what when.
    """

    setting: Setting
    ranks: int
    tokens: int
    strategy: str
    timeline: Timeline


@dataclass(frozen=True)
class PlotArea:
    """Where a span is drawn.

    Attributes:
        span: The span.
        top: Its upper edge; a rank is 1 high, rank 0 begins at 0.
        bottom: Its lower edge.
    """

    span: Span
    top: float
    bottom: float


def read_traces(path: Path) -> tuple[TracePlot, ...]:
    """Read the timelines that a sweep left beside its results.

    Returns:
        Those of the file, of every case the last one; none where there is no file.

    Raises:
        ConfigurationError: The file cannot be read, or a line of it is no timeline.
    """
    if not path.exists():
        return ()
    found: dict[tuple[Setting, int, int, str], TracePlot] = {}
    for number, entry in enumerate(read_timelines(path), 1):
        for span in entry.timeline.spans:
            if not (0 <= span.rank < entry.timeline.world_size and math.isfinite(span.start + span.end)):
                raise ConfigurationError(f"timelines {path}, line {number}: {span} is of no rank, or at no time")
        setting = Setting.of(entry)
        trace = TracePlot(setting, entry.ranks, entry.tokens, entry.strategy, entry.timeline)
        found[setting, entry.ranks, entry.tokens, entry.strategy] = trace
    return tuple(found.values())


def kind_of(span: Span) -> str:
    """What a span is coloured by: the activity of the rank itself, or the channel of a transfer."""
    return span.channel or "transfer" if span.activity.transfers else span.activity.value


def look_of(kind: str) -> KindLook:
    """How spans of a kind look; unknown channels keep their own name."""
    return _KINDS.get(kind) or KindLook(_OTHER_HUE, kind)


def kinds(traces: Iterable[TracePlot]) -> tuple[str, ...]:
    """The kinds of span that there are: work first, then channels by name."""
    found = {(span.activity.transfers, kind_of(span)) for trace in traces for span in trace.timeline.spans}
    order = {activity.value: place for place, activity in enumerate((Activity.ATTEND, Activity.MERGE, Activity.WAIT))}
    return tuple(kind for _, kind in sorted(found, key=lambda entry: (entry[0], order.get(entry[1], 9), entry[1])))


def boxes(timeline: Timeline) -> tuple[PlotArea, ...]:
    """Where to draw each span. Transfers that overlap share the height of their lane."""
    lanes: dict[tuple[int, Activity | None], list[Span]] = defaultdict(list)
    for span in sorted(timeline.spans, key=lambda span: (span.start, span.end)):
        lanes[span.rank, span.activity if span.activity.transfers else None].append(span)
    found: list[PlotArea] = []
    for (rank, activity), spans in lanes.items():
        top, bottom = _WORK if activity is None else _SENDS if activity is Activity.SEND else _RECEIVES
        rows = _rows(spans) if activity is not None else [0] * len(spans)
        height = (bottom - top) / (max(rows) + 1)
        found += [
            PlotArea(span, rank + top + row * height, rank + top + (row + 1) * height)
            for span, row in zip(spans, rows, strict=True)
        ]
    return tuple(found)


def _rows(spans: Sequence[Span]) -> list[int]:
    """For each span, ordered by start, the first row that is free, or the one that will be soonest."""
    ends: list[float] = []
    found: list[int] = []
    for span in spans:
        row = next((row for row, end in enumerate(ends) if end <= span.start + 1e-9), len(ends))
        if row == len(ends):
            if row < _MOST_ROWS:
                ends.append(span.end)
            else:
                row = min(range(_MOST_ROWS), key=ends.__getitem__)
        ends[row] = max(ends[row], span.end)
        found.append(row)
    return found


def shares(timeline: Timeline) -> dict[Activity, float]:
    """Of the time of the call, the share that ranks spent with each kind of work, on average over them."""
    total = timeline.makespan * timeline.world_size
    return {
        activity: sum(timeline.busy(rank, activity) for rank in range(timeline.world_size)) / total if total else 0.0
        for activity in (Activity.ATTEND, Activity.MERGE, Activity.WAIT)
    }
