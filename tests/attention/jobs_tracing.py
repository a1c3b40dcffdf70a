"""What the worker ranks run in the tests of traces."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests.attention.jobs import Case, problem
from tests.support.reference import softmax_attention
from tokenring_xdit.attention import Trace, bytes_sent, record_trace, token_ring_attention
from tokenring_xdit.attention.clocks import Clock, ClockOffset, clock_offset
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.tracer import Tracer
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.schedule import Activity, Timeline


@dataclass
class Traced:
    """A traced call, on one rank."""

    timeline: Timeline
    bytes_sent: int
    same_result: bool
    threads_left: list[str]


def _call(case: Case) -> tuple[Tensor, Tensor]:
    rank = dist.get_rank()
    q, k, v, home = problem(case)
    q_part, kv_part = (
        slice(sum(lengths[:rank]), sum(lengths[: rank + 1])) for lengths in (case.q_lengths, case.kv_lengths)
    )
    return token_ring_attention(
        q[:, :, q_part],
        k[:, :, kv_part],
        v[:, :, kv_part],
        schedule=case.schedule,
        causal=case.causal,
        joint_kv=home,
    )


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tokenring-trace")]


def traced(case: Case, in_order: bool = False, watches: bool = True) -> Traced:
    """A call without and one with a trace."""
    expected = _call(case)
    RingGroup.of().transport.in_order |= in_order
    before = bytes_sent()
    with record_trace() as trace, mock.patch.object(Tracer, "_watches", watches):
        found = _call(case)
        sent = bytes_sent() - before
    same = all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    return Traced(trace.timeline(case.schedule), sent, same, _threads())


def profiled(case: Case) -> tuple[set[str], Timeline]:
    """The names that torch's profiler has of a traced call, and its timeline."""
    with record_trace() as trace, profile(activities=[ProfilerActivity.CPU]) as profiler:
        _call(case)
    return {event.name for event in profiler.events()}, trace.timeline("profiled")


def traced_in_strided_groups() -> Timeline:
    """Two groups at once; the timeline of this rank's."""
    rank = dist.get_rank()
    group = [dist.new_group([0, 2]), dist.new_group([1, 3])][rank % 2]
    q, k, v = torch.randn(3, 1, 4, 12, 16)
    with record_trace() as trace:
        token_ring_attention(q, k, v, group=group)
    return trace.timeline("strided", group)


@dataclass
class Failed:
    """A traced call that failed, on one rank."""

    error: str
    second: str
    threads_left: list[str]
    attended: int


def failing(fault: str) -> Failed:
    """The second attention fails, of rank 1 or everywhere, while transfers are under way."""
    calls = 0
    group = dist.new_group(timeout=timedelta(seconds=5))  # for the one wait that nothing else ends: break_off()

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 2 and (fault == "everywhere" or dist.get_rank() == 1):
            raise KeyboardInterrupt if fault == "interrupt" else MemoryError("the card is full")
        out, lse = softmax_attention(q, k, v, scale=scale)
        return out.float(), lse.float()

    tensor = torch.randn(1, 2, 64, 8)
    error = second = ""
    with record_trace() as trace:
        try:
            token_ring_attention(tensor, tensor, tensor, kernel=kernel, group=group)
        except (TokenRingError, MemoryError, KeyboardInterrupt) as raised:
            error = f"{type(raised).__name__}: {raised}"
        left = _threads()
        attended = sum(span.activity is Activity.ATTEND for span in trace.spans)
        try:
            token_ring_attention(tensor, tensor, tensor, group=group)
        except TokenRingError as raised:
            second = type(raised).__name__
    return Failed(error, second, left + _threads(), attended)


def spans_of_calls() -> tuple[int, int, int, int]:
    """How many spans, beside waits, there are before, after one and after two calls, and after one more."""

    def count(trace: Trace) -> int:
        return sum(span.activity is not Activity.WAIT for span in trace.spans)

    def call() -> None:
        token_ring_attention(*torch.randn(3, 1, 2, 8, 8))

    call()
    with record_trace() as trace:
        before = count(trace)
        call()
        one = count(trace)
        call()
        two = count(trace)
        trace.clear()
        call()
    call()
    return before, one, two, count(trace)


def _shifted(shift: float) -> Clock:
    return lambda: time.monotonic() + shift


def offset_of_a_shifted_clock(shifts: tuple[float, ...]) -> ClockOffset:
    """What a rank finds its clock to be off by."""
    return clock_offset(dist.group.WORLD, _shifted(shifts[dist.get_rank()]))


def traced_with_shifted_clocks(case: Case, shifts: tuple[float, ...]) -> tuple[Timeline, float]:
    """A timeline of ranks that read different clocks, and how wrong it may be."""
    with record_trace(clock=_shifted(shifts[dist.get_rank()])) as trace:
        _call(case)
    timeline = trace.timeline("shifted")
    assert trace.clock_error is not None
    return timeline, trace.clock_error
