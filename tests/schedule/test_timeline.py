from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.support import chrome_trace
from tokenring_xdit.schedule import Activity, Span, Timeline, perfetto

SPANS = (
    Span(0, Activity.ATTEND, 0.0, 2.0, "Q[0] to KV[0]"),
    Span(0, Activity.SEND, 0.0, 3.0, "Q[0]", "q", 1, 100),
    Span(0, Activity.SEND, 1.0, 2.0, "O[1,0]", "q", 1, 50),
    Span(0, Activity.WAIT, 2.0, 2.5, "O[0,1]"),
    Span(1, Activity.RECEIVE, 0.0, 3.0, "Q[0]", "q", 0, 100),
    Span(1, Activity.MERGE, 3.0, 3.25, "O[1,0]"),
)
TIMELINE = Timeline("ring", 2, SPANS)


def test_the_makespan_is_that_of_the_ranks_own_work() -> None:
    assert TIMELINE.makespan == 3.25
    assert Timeline("ring", 2, SPANS[:2]).makespan == 2.0


def test_overlapping_transfers_count_once() -> None:
    assert TIMELINE.busy(0, Activity.SEND) == 3.0
    assert TIMELINE.busy(0, Activity.WAIT) == 0.5
    assert TIMELINE.busy(1, Activity.ATTEND) == 0.0


def test_perfetto_gets_a_process_for_each_rank_and_rows_without_overlap() -> None:
    content = perfetto([TIMELINE, TIMELINE])
    chrome_trace.refuse(json.loads(json.dumps(content)))
    events = content["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["ring: rank 0", "ring: rank 1"] * 2
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == 2 * len(SPANS)
    sent = next(event for event in spans if event["name"] == "send Q[0]")
    assert sent["args"] == {"channel": "q", "peer": 1, "bytes": 100}
    assert sent["dur"] == 3e6


MOMENTS = st.floats(0, 1e-6) | st.floats(0, 100)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(Activity), MOMENTS, MOMENTS), max_size=30))
def test_whatever_overlaps_is_shown_side_by_side(drawn: list[tuple[int, Activity, float, float]]) -> None:
    spans = tuple(
        Span(rank, activity, min(one, other), max(one, other), "Q[0]", "q" if activity.transfers else "")
        for rank, activity, one, other in drawn
    )
    content = perfetto([Timeline("any", 3, spans)])
    chrome_trace.refuse(content)
    shown = [event for event in content["traceEvents"] if event["ph"] == "X"]
    assert sorted(event["cat"] for event in shown) == sorted(span.activity.value for span in spans)
