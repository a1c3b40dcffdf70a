"""Records what this rank does in attention calls, and when: :func:`record_trace`.

Without a recorder a call asks once whether there is one, and that is all it costs.

When a transfer of gloo is over, only a thread that waits for it learns: torch 2.13 gives its works no future, and
``is_completed()`` is false until somebody has waited. So while a trace is recorded, one thread for each peer, channel
and direction waits for the transfers there, which end in the order in which they were posted; the call itself waits for
those threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import astuple
from functools import cache
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import record_function

from tokenring_xdit.attention.clocks import Clock, clock_offset
from tokenring_xdit.attention.groups import group_of
from tokenring_xdit.attention.member import failing_together
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.schedule import Activity, Span, Timeline

__all__ = ["Lanes", "Trace", "Unwatched", "Watched", "active_trace", "profiler_range", "record_trace", "recorded"]

_SECONDS_TO_END = 10.0
"""For a thread whose transfers have failed or are over; it needs none of them."""


class Trace:
    """What one rank did, on its own clock, since :func:`record_trace` or :meth:`clear`.

    Args:
        clock: Where times come from.

    Attributes:
        clock: The same.
        lanes: The threads that watch transfers.
        clock_error: By how many seconds the times of any two ranks may be shifted against rank 0's in what
            :meth:`timeline` made last; ``None`` before.
        schedules: Names of the schedules that ran, such as what ``auto`` chose; each once, in the order of the calls.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.lanes = Lanes()
        self.clock_error: float | None = None
        self.schedules: list[str] = []
        self._spans: list[Span] = []
        self._since: list[float] = []  # when what is being done began, or the wait inside it ended

    @property
    def spans(self) -> tuple[Span, ...]:
        """This rank's spans so far, with ranks of the default group and times of this rank's clock."""
        return tuple(self._spans)

    def clear(self) -> None:
        """Forget what was recorded, between two calls."""
        self._spans.clear()
        self.schedules.clear()

    def add(
        self,
        activity: Activity,
        start: float,
        end: float,
        what: str,
        *,
        channel: str = "",
        peer: int | None = None,
        size: int = 0,
    ) -> None:
        """Record a span, for code that is no context manager's body.

        Args:
            activity: What was done.
            start: When it began, on :attr:`clock`.
            end: When it ended.
            what: The blocks.
            channel: Channel of a transfer.
            peer: Other side of a transfer, as a rank of the default group.
            size: Bytes of a transfer.
        """
        self._spans.append(Span(dist.get_rank(), activity, start, end, what, channel, peer, size))

    @contextmanager
    def doing(self, activity: Activity, what: str) -> Iterator[None]:
        """Record what is done inside, for the profilers as well.

        A wait inside is recorded on its own, and what is done counts from its end: the executor waits for all that an
        action needs before it begins. Anything else that is recorded inside belongs to what is done.
        """
        if self._since and activity is not Activity.WAIT:
            yield
            return
        with profiler_range(f"{activity.value} {what}"):
            self._since.append(self.clock())
            try:
                yield
            finally:
                end = self.clock()
                self.add(activity, self._since.pop(), end, what)
                if activity is Activity.WAIT and self._since:
                    self._since[-1] = end

    def timeline(self, name: str, group: dist.ProcessGroup | None = None) -> Timeline:
        """Put the traces of all ranks of a group together; all of them call it at the same time.

        Clocks of other hosts are corrected by how far they are from that of rank 0 (:func:`clock_offset`) now, so call
        it soon after what was recorded: clocks of different hosts drift by some microseconds a second.

        Args:
            name: Name of the timeline.
            group: The group; ``None`` is the default group.

        Returns:
            The same on all ranks: times from the first span of any rank on, ranks of the group. What passed between a
            rank and one outside the group has no peer.

        Raises:
            AgreementError: Another rank is at another call; the same on every rank.
            CommunicationError: A rank is gone, is stopped, failed or did not come; the message names it.
        """
        ring_group = group_of(group)
        found = [(0.0, self.spans)]
        if ring_group.world_size > 1:
            with failing_together(ring_group, "making a timeline"):
                offset = ring_group.do_together("a timeline", lambda control: clock_offset(control, self.clock))
                mine = [astuple(_shifted(span, -offset.seconds)) for span in self.spans]
                plain = [(rank, activity.value, *rest) for rank, activity, *rest in mine]
                told = ring_group.exchange((offset.error, plain), "the spans of a timeline")
                found = [(error, tuple(_span(*values) for values in spans)) for error, spans in told]
        self.clock_error = max(error for error, _ in found)
        began = min((span.start for _, spans in found for span in spans), default=0.0)
        number = {peer: rank for rank, peer in enumerate(ring_group.peers)}
        return Timeline(
            name,
            ring_group.world_size,
            tuple(
                _shifted(span, -began, rank=rank, peer=None if span.peer is None else number.get(span.peer))
                for rank, (_, spans) in enumerate(found)
                for span in sorted(spans, key=lambda span: (span.start, span.end))
            ),
        )


def _span(rank: int, activity: str, *values: Any) -> Span:
    return Span(rank, Activity(activity), *values)


def _shifted(span: Span, seconds: float, **changes: int | None) -> Span:
    return Span(**{**vars(span), **changes, "start": span.start + seconds, "end": span.end + seconds})


_active: ContextVar[Trace | None] = ContextVar("tokenring_xdit_trace", default=None)


def active_trace() -> Trace | None:
    """What the calls of this thread are recorded in, if anything."""
    return _active.get()


def recorded(activity: Activity, what: str) -> AbstractContextManager[None]:
    """Records what is done inside where a trace is active, for code outside the executor."""
    trace = _active.get()
    return nullcontext() if trace is None else trace.doing(activity, what)


@contextmanager
def record_trace(*, clock: Clock = time.monotonic) -> Iterator[Trace]:
    """Record what this rank does in the attention calls of this thread inside, and when.

    .. code-block:: python

        with record_trace() as trace:
            token_ring_attention(q, k, v)
        timeline = trace.timeline("token_ring")  # of all ranks, which all call it
        Path("trace.json").write_text(json.dumps(perfetto([timeline])))

    ``docs/architecture.md`` says what the times mean. Recording makes calls slower (``docs/benchmarks.md``), so do not
    time calls with it. On CUDA times are those of the host, which only enqueues, and there are no transfers among them:
    ranges of the same names in torch's profiler and in NVTX tell where the device was.

    Args:
        clock: Where times come from; the default is the same clock for all processes of a machine.

    Raises:
        UnsupportedError: A trace is being recorded in this thread already.
    """
    if _active.get() is not None:
        raise UnsupportedError("a trace is being recorded in this thread already: end it before another one begins")
    trace = Trace(clock)
    token = _active.set(trace)
    try:
        yield trace
    finally:
        _active.reset(token)
        trace.lanes.close()


_has_gpu = cache(torch.cuda.is_available)


@contextmanager
def profiler_range(name: str) -> Iterator[None]:
    """A range of this name in torch's profiler, and in NVTX where there is CUDA."""
    with ExitStack() as stack:
        stack.enter_context(record_function(name))
        if _has_gpu():
            stack.enter_context(torch.cuda.nvtx.range(name))
        yield


class Watched:
    """A transfer in the place of the works that carry it; whoever waits for it is recorded as waiting.

    Args:
        trace: Where to record.
        what: What to call the wait.
        works: The messages of the transfer.
    """

    def __init__(self, trace: Trace, what: str, works: Sequence[dist.Work]) -> None:
        self._trace, self._what, self._works = trace, what, works
        self._over = threading.Lock()
        self._over.acquire()
        self._error: Exception | None = None

    def finish(self, activity: Activity, block: str, start: float, channel: str, peer: int, size: int) -> None:
        """Wait for the transfer where nobody minds, record it, and let those go on who wait for it."""
        try:
            for work in self._works:
                work.wait()
            self._trace.add(activity, start, self._trace.clock(), block, channel=channel, peer=peer, size=size)
        except Exception as error:
            self._error = error
        finally:
            self._over.release()

    def wait(self) -> bool:
        """Wait for the transfer.

        Raises:
            RuntimeError: From torch: it failed.
        """
        if not self._over.acquire(blocking=False):
            with self._trace.doing(Activity.WAIT, self._what):
                self._over.acquire()
        self._over.release()
        if self._error is not None:
            raise self._error
        return True


class Unwatched:
    """The work of a transfer whose end the host does not see; who waits for it is recorded as waiting.

    Args:
        trace: Where to record.
        what: What to call the wait.
        work: What to wait for.
    """

    def __init__(self, trace: Trace, what: str, work: dist.Work) -> None:
        self._trace, self._what, self._work = trace, what, work

    def wait(self) -> bool:
        """Wait for it.

        Raises:
            RuntimeError: From torch: it failed.
        """
        with self._trace.doing(Activity.WAIT, self._what):
            return self._work.wait()


class Lanes:
    """Threads that each do one thing after the other, by name; made when first asked for."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, tuple[SimpleQueue[Callable[[], None] | None], threading.Thread]] = {}

    def open(self, name: Hashable) -> None:
        """Have the thread ready."""
        if name not in self._lanes:
            queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
            thread = threading.Thread(target=_work_off, args=(queue,), name=f"tokenring-trace-{name}", daemon=True)
            thread.start()
            self._lanes[name] = queue, thread

    def put(self, name: Hashable, job: Callable[[], None]) -> None:
        """Have something done after what the thread was given before."""
        self.open(name)
        self._lanes[name][0].put(job)

    def close(self) -> None:
        """End the threads, once they have done what they were given."""
        for queue, _ in self._lanes.values():
            queue.put(None)
        for _, thread in self._lanes.values():
            thread.join(_SECONDS_TO_END)
        self._lanes.clear()


def _work_off(queue: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := queue.get()) is not None:
        job()
        del job  # it keeps messages
