"""Chrome's trace event format, as its description has it, checked without a look at how ours is made.

"Trace Event Format", the JSON object form: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

METADATA = {
    "process_name": "name",
    "process_sort_index": "sort_index",
    "thread_name": "name",
    "thread_sort_index": "sort_index",
}
"""Metadata events, and what each has to say."""


def refuse(content: Any) -> None:
    """Raise where a viewer would drop events or show them wrongly."""
    assert set(content) <= {"traceEvents", "displayTimeUnit"}
    assert content["displayTimeUnit"] in {"ms", "ns"}
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    named: set[tuple[str, int, int | None]] = set()
    for event in content["traceEvents"]:
        assert isinstance(event["pid"], int) and event["pid"] > 0  # 0 is the idle process
        assert isinstance(event["name"], str) and event["name"]
        if event["ph"] == "M":
            assert METADATA[event["name"]] in event["args"]
            about = (event["name"], event["pid"], event.get("tid"))
            assert about not in named, "said twice"
            named.add(about)
            continue
        assert event["ph"] == "X", "nothing else is written"
        assert isinstance(event["ts"], int | float) and event["ts"] >= 0
        assert isinstance(event["dur"], int | float) and event["dur"] >= 0
        assert isinstance(event["cat"], str) and isinstance(event["args"], dict)
        # Viewers read nanoseconds.
        start, end = (round(value * 1e3) for value in (event["ts"], event["ts"] + event["dur"]))
        tracks[event["pid"], event["tid"]].append((start, end))
    for (process, thread), spans in tracks.items():
        assert ("process_name", process, None) in named
        assert ("thread_name", process, thread) in named
        assert spans == sorted(spans)
        for before, after in pairwise(spans):
            assert before[1] <= after[0], "neither beside nor inside each other"
    threads = [thread for _, thread in tracks]
    assert len(threads) == len(set(threads))  # Perfetto looks threads up by their number first
