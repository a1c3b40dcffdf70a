"""Recorded calls on real gloo ranks, against what the schedule says that the ranks do."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.attention import jobs_tracing as jobs
from tests.attention.jobs import Case
from tests.support.ranks import RankPool
from tokenring_xdit.attention import record_trace
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.schedule import Activity, Attend, Block, Exchange, Kind, Mask, Merge, Schedule, Timeline, build

OWN = {Activity.ATTEND, Activity.MERGE, Activity.WAIT}


def plan_of(case: Case) -> Schedule:
    mask = Mask.CAUSAL if case.causal else Mask.FULL
    return build(case.schedule, len(case.q_lengths), mask, math.gcd(case.heads, case.kv_heads)).schedule


def payload(case: Case, block: Block) -> int:
    """Bytes of a block of fp32, from its definition."""
    lengths, heads = (case.kv_lengths, case.kv_heads) if block.kind is Kind.KV else (case.q_lengths, case.heads)
    first, last = block.tokens.bounds(lengths[block.owner])
    first_head, last_head = block.heads.bounds(heads)
    rows = case.batch * (last - first) * (last_head - first_head)
    if block.kind is Kind.O:
        return math.ceil(rows * case.head_dim * 4 / 16) * 16 + rows * 4
    return rows * case.head_dim * 4 * (2 if block.kind is Kind.KV else 1)


def expected_work(case: Case, schedule: Schedule, rank: int) -> list[tuple[Activity, str]]:
    """In their order; nothing is done with empty blocks."""
    found: list[tuple[Activity, str]] = []
    for action in schedule.programs[rank]:
        if isinstance(action, Attend) and payload(case, action.q) and payload(case, action.kv):
            found.append((Activity.ATTEND, f"{action.q} to {action.kv}"))
        elif isinstance(action, Merge) and payload(case, action.partial):
            found.append((Activity.MERGE, str(action.partial)))
    return found


def expected_transfers(case: Case, schedule: Schedule, rank: int) -> Counter[tuple[object, ...]]:
    return Counter(
        (way, str(t.block), action.channel.value, t.peer, payload(case, t.block))
        for action in schedule.programs[rank]
        if isinstance(action, Exchange)
        for way, transfers in ((Activity.SEND, action.sends), (Activity.RECEIVE, action.recvs))
        for t in transfers
        if payload(case, t.block)
    )


def check(case: Case, timeline: Timeline, bytes_sent: list[int]) -> None:
    schedule = plan_of(case)
    assert timeline.world_size == len(case.q_lengths)
    for rank in range(timeline.world_size):
        spans = [span for span in timeline.spans if span.rank == rank]
        own = sorted((s for s in spans if s.activity in OWN), key=lambda s: (s.start, s.end))
        work = [(s.activity, s.what) for s in own if s.activity is not Activity.WAIT and "joint" not in s.what]
        assert work == expected_work(case, schedule, rank)
        assert [s.what for s in own if "joint" in s.what] == [f"Q[{rank}] to joint keys"] * bool(case.home)
        assert all(before.end <= after.start for before, after in pairwise(own))
        assert all(0 <= s.start <= s.end for s in spans)
        moved = [s for s in spans if s.activity.transfers]
        found = Counter((s.activity, s.what, s.channel, s.peer, s.size) for s in moved)
        assert found == expected_transfers(case, schedule, rank)
        assert sum(s.size for s in moved if s.activity is Activity.SEND) == bytes_sent[rank]
        names = {str(b) for b in schedule.blocks()}
        waits = {s.what.removesuffix(" sent") for s in own if s.activity is Activity.WAIT}
        assert waits <= names | {"agreement"}
        # What was merged or attended had come before.
        for span in moved:
            if span.activity is Activity.RECEIVE and span.what.startswith("O"):
                (merge,) = (s for s in own if (s.activity, s.what) == (Activity.MERGE, span.what))
                assert span.end <= merge.start
    sent, received = (
        Counter(
            (s.what, s.channel, *((s.rank, s.peer) if way is Activity.SEND else (s.peer, s.rank)), s.size)
            for s in timeline.spans
            if s.activity is way
        )
        for way in (Activity.SEND, Activity.RECEIVE)
    )
    assert sent == received
    for receive in (s for s in timeline.spans if s.activity is Activity.RECEIVE):
        send = next(
            s
            for s in timeline.spans
            if s.activity is Activity.SEND
            and (s.rank, s.peer, s.what, s.channel) == (receive.peer, receive.rank, receive.what, receive.channel)
        )
        assert send.start <= receive.end  # one machine, one clock


def even(world_size: int, length: int, schedule: str) -> Case:
    return Case((length,) * world_size, (length,) * world_size, schedule=schedule, heads=4, kv_heads=4)


UNEVEN = Case((7, 4, 0, 9), (6, 1, 8, 5), heads=4, kv_heads=2, home=3)

CASES = [
    *(even(n, 24, "token_ring") for n in (1, 2, 3, 4)),
    *(even(3, 20, name) for name in ("ring", "direct", "direct_kv", "bidirectional", "bidirectional_q")),
    even(4, 16, "mesh"),
    even(4, 16, "hierarchical:nodes=2"),
    even(4, 24, "direct:chunks=4"),
    replace(even(3, 9, "token_ring"), causal=True, batch=2),
    *(replace(UNEVEN, schedule=name) for name in ("token_ring:chunks=5", "direct:chunks=2", "bidirectional:chunks=2")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.schedule} on {len(c.q_lengths)}{' uneven' * bool(c.home)}")
def test_a_trace_is_what_the_schedule_says(ranks: RankPool, case: Case) -> None:
    found = ranks.run(len(case.q_lengths), jobs.traced, case)
    for rank in found:
        assert rank.same_result
        assert rank.threads_left == []
        assert rank.timeline == found[0].timeline
    check(case, found[0].timeline, [rank.bytes_sent for rank in found])


def test_messages_posted_in_batches_are_watched_too(ranks: RankPool) -> None:
    """The way of NCCL, on gloo."""
    case = even(3, 16, "token_ring")
    found = ranks.run(3, jobs.traced, case, True)
    check(case, found[0].timeline, [rank.bytes_sent for rank in found])


def test_where_transfers_cannot_be_watched_the_host_still_waits(ranks: RankPool) -> None:
    case = even(3, 16, "token_ring")
    for found in ranks.run(3, jobs.traced, case, False, False):
        assert found.same_result
        assert not [span for span in found.timeline.spans if span.activity.transfers]
        waits = {span.what for span in found.timeline.spans if span.activity is Activity.WAIT}
        assert {"Q[0]", "Q[1] sent", "O[2,1]"} <= waits
        for rank in range(3):
            spans = [span for span in found.timeline.spans if span.rank == rank and span.activity is not Activity.WAIT]
            assert [(span.activity, span.what) for span in spans] == expected_work(case, plan_of(case), rank)


def test_the_profiler_has_the_same_names(ranks: RankPool) -> None:
    case = even(2, 16, "token_ring")
    for rank, (names, timeline) in enumerate(ranks.run(2, jobs.profiled, case)):
        own = {f"{s.activity.value} {s.what}" for s in timeline.spans if s.rank == rank and s.activity in OWN}
        assert own <= names
        assert {"exchange q", "exchange o"} <= names


@pytest.mark.cuda
def test_the_profiler_has_the_same_names_on_gpus(gpu_ranks: RankPool) -> None:
    test_the_profiler_has_the_same_names(gpu_ranks)


def test_ranks_of_a_part_of_the_world(ranks: RankPool) -> None:
    """{0, 2} and {1, 3} at once: ranks and peers of a timeline are those of its group."""
    for timeline in ranks.run(4, jobs.traced_in_strided_groups):
        assert timeline.world_size == 2
        check(even(2, 12, "token_ring"), timeline, [sum(_sizes(timeline, rank)) for rank in range(2)])


def _sizes(timeline: Timeline, rank: int) -> list[int]:
    return [s.size for s in timeline.spans if s.rank == rank and s.activity is Activity.SEND]


@pytest.mark.parametrize("fault", ["kernel", "interrupt"])
def test_an_error_in_a_traced_call_leaves_no_thread(ranks: RankPool, fault: str) -> None:
    found = ranks.run(3, jobs.failing, fault)
    assert "the card is full" in found[1].error or "KeyboardInterrupt" in found[1].error
    for rank in (0, 2):
        assert found[rank].error.startswith("CommunicationError: rank 1 failed in schedule 'token_ring': ")
        assert f": rank {rank} waited for " in found[rank].error
    for rank in found:
        assert rank.threads_left == []
        assert rank.second == "CommunicationError"
    assert found[1].attended >= 1  # what was done until then is in the trace


def test_one_trace_at_a_time() -> None:
    with record_trace(), pytest.raises(UnsupportedError, match="already"), record_trace():
        pass
    with record_trace() as trace:  # the one before has ended
        assert trace.spans == ()


def test_calls_are_recorded_while_a_trace_is_open_only(ranks: RankPool) -> None:
    for before, one, two, after in ranks.run(2, jobs.spans_of_calls):
        assert before == 0
        assert two == 2 * one > 0
        assert after == one  # cleared, then one more


def test_threads_end_whose_transfers_nobody_finishes(ranks: RankPool) -> None:
    """All ranks fail at once: receives that were posted early wait for what nobody sends any more."""
    for rank in ranks.run(4, jobs.failing, "everywhere"):
        assert "the card is full" in rank.error
        assert rank.threads_left == []
        assert rank.second == "CommunicationError"


SHIFTS = (0.0, 1000.0, -7.5, 3e-3)


def test_clock_offsets(ranks: RankPool) -> None:
    """All ranks share a real clock, so the shift is known: NTP's bound is a bound whatever the load."""
    for found, shift in zip(ranks.run(4, jobs.offset_of_a_shifted_clock, SHIFTS), SHIFTS, strict=True):
        assert abs(found.seconds - shift) <= found.error
        if not shift:
            assert found.seconds == 0.0


def test_a_trace_of_shifted_clocks_is_put_right(ranks: RankPool) -> None:
    case = even(4, 16, "token_ring")
    for timeline, error in ranks.run(4, jobs.traced_with_shifted_clocks, case, SHIFTS):
        assert error > 0
        for receive in (s for s in timeline.spans if s.activity is Activity.RECEIVE):
            (send,) = (
                s
                for s in timeline.spans
                if s.activity is Activity.SEND
                and (s.rank, s.peer, s.what) == (receive.peer, receive.rank, receive.what)
            )
            assert send.start <= receive.end + 2 * error
        assert timeline.makespan < 60  # not a thousand seconds apart
