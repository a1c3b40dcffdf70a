"""What measurements of both levels share on a rank: the world, barriers, memory, and the counters of links."""

from __future__ import annotations

import copy
import gc
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tokenring_xdit.attention import Trace, record_trace
from tokenring_xdit.attention.auto import plan_with, trial_calls
from tokenring_xdit.attention.groups import clear_buffers
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.devices import rank_device
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser import trace_upstream
from tokenring_xdit.lab.effects import LabEffects
from tokenring_xdit.pipelines.environment import quieten
from tokenring_xdit.workers.world import join_world

__all__ = [
    "barrier",
    "counted_by",
    "join_sweep",
    "largest",
    "observe",
    "settle",
    "synchronize",
    "traced_call",
    "with_same_weights",
]

_DEVICES = Path("/sys/class/net")


def join_sweep(store: Any = None) -> torch.device:
    """Join the other ranks; returns this rank's device.

    Args:
        store: Where they join; ``None`` is what the environment says.
    """
    quieten()
    device = rank_device()
    join_world(device, timedelta(hours=1), store)
    if device.type == "cpu":
        plan_with(LabEffects.fitted(torch.get_num_threads()))
    return device


def barrier(device: torch.device) -> None:
    """Wait for all ranks."""
    dist.barrier(device_ids=[device.index] if device.type == "cuda" else None)


_MOST_SETTLING = 200
"""Calls after which a choice should be made: ``auto`` tries at most four schedules, four times each, for each shape."""


def settle(call: Callable[[], object], device: torch.device) -> None:
    """Repeat a call until it tries nothing any more: the trials of ``auto`` are not what it takes.

    Args:
        call: The call; all ranks make it.
        device: Where it computes.

    Raises:
        UnsupportedError: It goes on trying.
    """
    for _ in range(_MOST_SETTLING):
        before = trial_calls()
        call()
        tried = torch.tensor([trial_calls() - before], device=device)
        dist.all_reduce(tried, op=dist.ReduceOp.MAX)  # the groups of a hybrid decide each for itself
        if not tried.item():
            return
    raise UnsupportedError(f"'auto' has not chosen a schedule after {_MOST_SETTLING} calls, which can hardly be timed")


def traced_call(
    call: Callable[[], object],
    name: str,
    device: torch.device,
    *,
    through_usp: bool,
    on_start: Callable[[Trace], None] = lambda trace: None,
) -> Traced | None:
    """Record a call, from a barrier on, after one that starts the threads that watch transfers.

    Args:
        call: The call; all ranks make it.
        name: Name of the timeline.
        device: Where it computes.
        through_usp: Whether xfuser's own attention takes part.
        on_start: Given the trace before the recorded call.

    Returns:
        What all ranks did, on rank 0.
    """
    with record_trace() as trace, trace_upstream(trace) if through_usp else nullcontext():
        call()
        trace.clear()
        on_start(trace)
        barrier(device)
        call()
        synchronize(device)
    timeline = trace.timeline(name)
    if dist.get_rank() != 0:
        return None
    return Traced(timeline, trace.clock_error or 0.0, ", ".join(trace.schedules) or None)


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_of(call: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Bytes allocated at once during a call, beside what there was, and how that was found."""
    gc.collect()  # what is freed meanwhile would count as memory that the call gives back
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        there = torch.cuda.memory_allocated()
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - there, "torch.cuda.max_memory_allocated"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = call()
    del output
    events = list(profiler.profiler.kineto_results.experimental_event_tree())
    changes = []
    while events:
        event = events.pop()
        events += event.children
        if event.name == "[memory]":
            changes.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    return _most_held(
        change[1:] for change in sorted(changes)
    ), "tensors allocated by the calling thread (torch.profiler)"


def _most_held(changes: Iterable[tuple[int, int]]) -> int:
    """Most bytes that are held at once.

    What another thread frees, as messages may be, nobody records: it is gone once its memory is given out again.

    Args:
        changes: Addresses, and the bytes that are allocated there, or, below 0, freed; in order.
    """
    starts: list[int] = []  # of what is held, in order
    sizes: dict[int, int] = {}
    held = peak = 0
    for address, size in changes:
        first = bisect_right(starts, address) - 1
        if first < 0 or starts[first] + sizes[starts[first]] <= address:
            first += 1
        last = max(first, bisect_left(starts, address + max(size, 1)))
        held += size if size > 0 else 0
        held -= sum(sizes.pop(start) for start in starts[first:last])
        starts[first:last] = []
        if size > 0:
            starts.insert(first, address)
            sizes[address] = size
            peak = max(peak, held)
    return peak


def observe(
    call: Callable[[], Any],
    device: torch.device,
    counting: Callable[[], AbstractContextManager[Any]],
    *,
    rehearsed: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Make a call twice: with empty buffers, for the memory, and to look at it.

    Args:
        call: The call; all ranks make it.
        device: Where it computes.
        counting: Inside of what it gives, the ``bytes`` are counted that this rank sends.
        rehearsed: Whether to make it once before, and leave its buffers: some of what it computes is none of it.

    Returns:
        What this rank has of it, and what it took, as fields of :class:`~tokenring_xdit.bench.commands.Checked`.
    """
    clear_buffers()
    if rehearsed:
        call()
    barrier(device)
    peak, measure = peak_of(call, device)
    barrier(device)
    before = links()
    with counting() as traffic:
        output = call()
    synchronize(device)
    barrier(device)
    carried = link_bytes(before, links())
    return output, {"bytes_sent": traffic.bytes, "links": carried, "peak": peak, "peak_measure": measure}


@dataclass
class _Counted:
    bytes: int = 0


@contextmanager
def counted_by(count: Callable[[], int]) -> Iterator[_Counted]:
    """What a counter counts inside, as ``bytes``; known at the end."""
    counted, before = _Counted(), count()
    yield counted
    counted.bytes = count() - before


def with_same_weights(module: torch.nn.Module) -> Any:
    """Another module around the same weights, which stays as it is when the first is changed."""
    return copy.deepcopy(module, {id(weight): weight for weight in (*module.parameters(), *module.buffers())})


def largest(values: Tensor) -> float:
    """The largest of some values, 0 of none."""
    return values.max().item() if values.numel() else 0.0


def links() -> dict[str, dict[str, int]] | None:
    """What the interfaces of this host have carried, in bytes of frames; ``None`` outside an emulated network."""
    found = sorted(path for path in _DEVICES.glob("link*"))
    if not found:
        return None
    ways = {"sent": "tx_bytes", "received": "rx_bytes"}
    return {
        link.name: {way: int((link / "statistics" / file).read_text()) for way, file in ways.items()} for link in found
    }


def link_bytes(
    before: dict[str, dict[str, int]] | None, after: dict[str, dict[str, int]] | None
) -> dict[str, dict[str, int]] | None:
    """What :func:`links` counted from one moment to another."""
    if before is None or after is None:
        return None
    return {link: {way: after[link][way] - before[link][way] for way in after[link]} for link in after}
