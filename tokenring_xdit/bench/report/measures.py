"""The figures of a record, ready to be plotted: missing ones and those that are no numbers are ``None``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tokenring_xdit.bench.records import Record, Spread, Status
from tokenring_xdit.bench.report.links import busiest_seconds, links_of

__all__ = ["BASELINE", "Unit", "Value", "bytes_unit", "call_time", "computing", "exposed", "hidden"]
__all__ += ["link_bytes", "number", "payload", "peak", "speed_up", "time_unit"]

BASELINE = "xfuser-ring"
"""The strategy that speed-ups refer to: xfuser's Ring as its users get it."""


@dataclass(frozen=True)
class Value:
    """A figure, with its quartiles where it has some."""

    middle: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Unit:
    """How large figures are written: divided by ``size``, followed by ``name``."""

    name: str
    size: float


_TIMES = (Unit("µs", 1e-6), Unit("ms", 1e-3), Unit("s", 1.0))
_BYTES = (Unit("B", 1), Unit("kB", 1e3), Unit("MB", 1e6), Unit("GB", 1e9))


def time_unit(values: Iterable[float]) -> Unit:
    """The unit in which the largest of some times is at most 9999."""
    return _unit(values, _TIMES)


def bytes_unit(values: Iterable[float]) -> Unit:
    """The unit, a power of 1000, in which the largest of some sizes is at most 1000."""
    return _unit(values, _BYTES, 1e3)


def _unit(values: Iterable[float], ladder: tuple[Unit, ...], below: float = 1e4) -> Unit:
    most = max((abs(value) for value in values), default=0.0)
    return next((unit for unit in ladder if most < below * unit.size), ladder[-1])


def number(value: float) -> str:
    """Three digits that count, as people write them: 1211, 42.6, 0.0051."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def call_time(record: Record) -> Value | None:
    """Seconds of a call."""
    value = _spread(record.seconds)
    return value if record.status is Status.OK and value is not None and value.middle > 0 else None


def computing(record: Record) -> Value | None:
    """Seconds of the attention alone, as long as nothing is sent."""
    return _spread(record.compute_seconds)


def exposed(record: Record) -> Value | None:
    """Seconds by which a call is longer than its attention. Below zero where noise was larger than that."""
    return _spread(record.exposed_seconds)


def hidden(record: Record) -> Value | None:
    """Seconds, at least, in which links were at work while ranks computed.

    What the busiest direction of a link carried takes this long at its stated rate; what of that is not exposed was
    hidden. ``None`` without an emulated network, whose rates are known.
    """
    waited, alone, busy = exposed(record), computing(record), busiest_seconds(record)
    if waited is None or alone is None or busy is None:
        return None
    return Value(min(alone.middle, max(0.0, busy - max(0.0, waited.middle))))


def speed_up(record: Record, baseline: Record | None) -> Value | None:
    """How many times as fast as the baseline: medians over medians; the bounds set quartile against quartile."""
    ours, theirs = call_time(record), None if baseline is None else call_time(baseline)
    if ours is None or theirs is None:
        return None
    middle = theirs.middle / ours.middle
    if record is baseline:
        return Value(middle)
    return Value(middle, _ratio(theirs.lower, ours.upper), _ratio(theirs.upper, ours.lower))


def link_bytes(record: Record) -> Value | None:
    """Bytes that the busiest direction of a link carried, frames with all that is in them."""
    return _most([link.size for link in links_of(record)])


def payload(record: Record) -> Value | None:
    """Payload of the rank that sends most, in bytes."""
    return _most(record.bytes_sent)


def peak(record: Record) -> Value | None:
    """Bytes that the rank with most allocated."""
    return _most(record.peak_bytes)


def _most(sizes: Iterable[int] | None) -> Value | None:
    most = max(sizes or (), default=None)
    return None if most is None else Value(float(most))


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _spread(seconds: Spread | None) -> Value | None:
    if seconds is None or not math.isfinite(seconds.median):
        return None
    lower, upper = (quartile if math.isfinite(quartile) else None for quartile in (seconds.lower, seconds.upper))
    return Value(seconds.median, lower, upper)
