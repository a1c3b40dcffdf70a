"""Traces of xfuser's own attention, on real ranks: what is known of each strategy, and no more."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.hosts.xfuser import jobs_tracing as jobs
from tests.support.ranks import RankPool
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.schedule import Activity, Span, Timeline

BLOCK = jobs.TOKENS * jobs.HEADS * jobs.HEAD_DIM * 4
"""Bytes of a rank's queries."""


def traced(ranks: RankPool, degrees: ParallelDims, rotation: bool = False) -> Timeline:
    """The timeline of a call, once what holds for every one has been checked."""
    world = degrees.ulysses * degrees.ring * degrees.tokenring
    found = ranks.run(world, jobs.traced, degrees, rotation, timeout=300)
    timeline: Timeline = found[0].timeline
    for rank, one in enumerate(found):
        assert one.same_result and one.untouched
        assert one.timeline == timeline
        spans = of(timeline, rank)
        assert sum(s.size for s in spans if s.activity is Activity.SEND) == one.bytes_sent
        assert sum(s.size for s in spans if s.activity is Activity.RECEIVE) == one.bytes_sent
        own = sorted((s for s in spans if not s.activity.transfers), key=lambda s: (s.start, s.end))
        assert all(before.end <= after.start for before, after in pairwise(own))
        assert all(0 <= s.start <= s.end for s in spans)
    return timeline


def of(timeline: Timeline, rank: int, *activities: Activity) -> list[Span]:
    return [s for s in timeline.spans if s.rank == rank and (not activities or s.activity in activities)]


def names(spans: list[Span]) -> list[str]:
    return [s.what for s in spans]


def test_ulysses(ranks: RankPool) -> None:
    timeline = traced(ranks, ParallelDims(ulysses=2))
    for rank in range(2):
        assert names(of(timeline, rank, Activity.WAIT)) == ["all-to-all"] * 4
        assert names(of(timeline, rank, Activity.ATTEND)) == [f"Q heads {rank + 1}/2 to KV heads {rank + 1}/2"]
        moved = of(timeline, rank, Activity.SEND, Activity.RECEIVE)
        assert {(s.channel, s.peer, s.size) for s in moved} == {("all-to-all", None, BLOCK // 2)}
        assert not of(timeline, rank, Activity.MERGE)


def test_ring_gathers_once(ranks: RankPool) -> None:
    timeline = traced(ranks, ParallelDims(ring=3))
    for rank in range(3):
        steps = [f"Q[{rank}] to KV[{(rank - step) % 3}]" for step in range(3)]
        assert names(of(timeline, rank, Activity.ATTEND)) == steps
        assert names(of(timeline, rank, Activity.MERGE)) == [f"O[{rank},{rank}]"] * 2
        assert names(of(timeline, rank, Activity.WAIT)) == ["KV of the others"]
        (sent,), (received,) = (of(timeline, rank, way) for way in (Activity.SEND, Activity.RECEIVE))
        assert (sent.what, sent.peer, sent.size) == (f"KV[{rank}]", None, 2 * 2 * BLOCK)
        assert received.end <= of(timeline, rank, Activity.ATTEND)[1].start


def test_ring_hands_on(ranks: RankPool) -> None:
    timeline = traced(ranks, ParallelDims(ring=3), rotation=True)
    sent = Counter((s.rank, s.peer, s.what) for s in timeline.spans if s.activity is Activity.SEND)
    received = Counter((s.peer, s.rank, s.what) for s in timeline.spans if s.activity is Activity.RECEIVE)
    route = {(rank, (rank + 1) % 3, f"KV[{(rank - step) % 3}]"): 1 for rank in range(3) for step in range(2)}
    assert sent == received == route
    for rank in range(3):
        brought = of(timeline, rank, Activity.RECEIVE)
        attended = of(timeline, rank, Activity.ATTEND)
        assert [f"Q[{rank}] to {s.what}" for s in brought] == names(attended)[1:]
        assert all(receive.end <= attend.start for receive, attend in zip(brought, attended[1:], strict=True))
        assert names(of(timeline, rank, Activity.WAIT)) == names(brought)


def test_both(ranks: RankPool) -> None:
    timeline = traced(ranks, ParallelDims(ulysses=2, ring=2))
    for rank in range(4):
        heads = f" heads {rank % 2 + 1}/2"
        mine, other = rank // 2, 1 - rank // 2
        assert names(of(timeline, rank, Activity.ATTEND)) == [
            f"Q[{mine}]{heads} to KV[{keys}]{heads}" for keys in (mine, other)
        ]


@pytest.mark.parametrize("ulysses", [1, 2])
def test_tokenring_inside_records_itself(ranks: RankPool, ulysses: int) -> None:
    """The executor's spans, once each, beside the all-to-alls of Ulysses."""
    timeline = traced(ranks, ParallelDims(tokenring=2, ulysses=ulysses))
    for rank in range(2 * ulysses):
        mine, other = rank // ulysses, 1 - rank // ulysses
        assert names(of(timeline, rank, Activity.ATTEND)) == [f"Q[{q}] to KV[{mine}]" for q in (mine, other)]
        assert names(of(timeline, rank, Activity.MERGE)) == [f"O[{mine},{other}]"]
        assert names(of(timeline, rank, Activity.WAIT)).count("all-to-all") == (4 if ulysses > 1 else 0)
