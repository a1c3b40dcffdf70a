"""The plots as data, without a word about who draws them: what stands where, in which unit, with which bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from tokenring_xdit.bench.records import Record
from tokenring_xdit.bench.report import measures
from tokenring_xdit.bench.report.links import links_of
from tokenring_xdit.bench.report.measures import BASELINE, Unit, Value
from tokenring_xdit.bench.report.problems import Axis, ProblemView

__all__ = ["Figure", "Form", "Part", "Point", "Series", "figures"]


class Form(Enum):
    """How a figure is drawn."""

    LINES = "lines"
    BARS = "bars"
    """A bar for each strategy; where series have parts, one after the other."""
    CELLS = "cells"
    """A row of coloured cells for each strategy."""


class Part(Enum):
    """Which share of a strategy's figure a series is."""

    WHOLE = ""
    COMPUTING = "computing"
    HIDDEN = "computing, links at work"
    EXPOSED = "communication exposed"


@dataclass(frozen=True)
class Point:
    """A figure of one case, in the figure's unit.

    Attributes:
        x: The place on the axis, or the name of a link.
        value: The figure and its quartiles.
    """

    x: int | str
    value: Value


@dataclass(frozen=True)
class Series:
    """Points of one strategy, in the order of the axis."""

    strategy: str
    points: tuple[Point, ...]
    part: Part = Part.WHOLE


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        key: For file names: ``time``, ``speed-up``, and so on.
        title: Above it.
        note: What one has to know to read it; below it.
        form: How it is drawn.
        x_label: Label of the axis; empty for bars.
        y_label: The unit.
        series: What is drawn, the fastest strategy first.
        logarithmic: Whether the figures are on a logarithmic scale. The places on the x axis of lines always are.
        reference: A value to draw a line at.
    """

    key: str
    title: str
    note: str
    form: Form
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    reference: float | None = None


_X_LABELS = {Axis.TOKENS: "sequence length, tokens", Axis.RANKS: "ranks", Axis.SHARDS: "ranks", Axis.SHAPE: ""}
_QUARTILES = "Medians; error bars are quartiles."


def figures(view: ProblemView) -> tuple[Figure, ...]:
    """All plots of a view for which it has figures."""
    found = [_time(view), _speed_up(view), _communication(view), _busiest_link(view), _payload(view), _memory(view)]
    return tuple(figure for figure in (*found, _links(view)) if figure is not None and figure.series)


def _time(view: ProblemView) -> Figure | None:
    return _plot(
        view,
        "time",
        "Time of one call",
        _QUARTILES,
        measures.call_time,
        measures.time_unit,
    )


def _speed_up(view: ProblemView) -> Figure | None:
    def value(record: Record) -> Value | None:
        return measures.speed_up(record, view.find(BASELINE, view.at(record)))

    return _plot(
        view,
        "speed-up",
        "Speed-up over xfuser's Ring",
        f"How many times as fast as {BASELINE}, medians over medians; error bars set quartile against quartile.",
        value,
        lambda _: Unit("times as fast", 1),
        linear=True,
        reference=1.0,
    )


_Quantity = Callable[[Record], Value | None]

_EXPOSED = "exposed (the call less its attention)"
_HIDDEN = "hidden (what the busiest link needs at its stated rate, less the exposed part: a lower bound)"
_UNKNOWN = "What is hidden is unknown without stated rates."


def _communication(view: ProblemView) -> Figure | None:
    if not any(measures.exposed(record) for record in view.records):
        return None
    return _where_time_goes(view) if view.axis is Axis.SHAPE else _exposed_and_hidden(view)


def _where_time_goes(view: ProblemView) -> Figure:
    parts = {Part.COMPUTING: _computing_alone, Part.HIDDEN: measures.hidden, Part.EXPOSED: measures.exposed}
    found, unit = _parts(view, parts)
    series = tuple(
        Series(name, tuple(_scaled(point, unit, bounds=False) for point in points), part)
        for (name, part), points in found.items()
    )
    hidden = f"Outlined: {_HIDDEN}." if _rates_known(view) else _UNKNOWN
    note = f"Pale: computing. {hidden} Full: {_EXPOSED}."
    return Figure("communication", "Where the time goes", note, Form.BARS, "", unit.name, series)


def _exposed_and_hidden(view: ProblemView) -> Figure:
    found, unit = _parts(view, {Part.EXPOSED: measures.exposed, Part.HIDDEN: measures.hidden})
    logarithmic = all(
        point.value.middle > 0 for (_, part), points in found.items() if part is Part.EXPOSED for point in points
    )
    series = tuple(
        Series(name, tuple(_scaled(point, unit) for point in points if point.value.middle > 0 or not logarithmic), part)
        for (name, part), points in found.items()
    )
    note = f"Solid: {_EXPOSED}. {f'Dotted: {_HIDDEN}.' if _rates_known(view) else _UNKNOWN}"
    return Figure(
        "communication",
        "Communication, exposed and hidden",
        note,
        Form.LINES,
        _X_LABELS[view.axis],
        unit.name,
        tuple(entry for entry in series if entry.points),
        logarithmic,
    )


def _parts(view: ProblemView, parts: Mapping[Part, _Quantity]) -> tuple[dict[tuple[str, Part], list[Point]], Unit]:
    """The points of each strategy and part that has any, and the unit of them all."""
    found = {(name, part): _values(view, name, of) for name in view.strategies for part, of in parts.items()}
    unit = measures.time_unit(point.value.middle for points in found.values() for point in points)
    return {key: points for key, points in found.items() if points}, unit


def _rates_known(view: ProblemView) -> bool:
    return any(measures.hidden(record) for record in view.records)


def _computing_alone(record: Record) -> Value | None:
    """The share of the attention in which no link is known to have been at work."""
    alone, beside = measures.computing(record), measures.hidden(record)
    if alone is None or measures.exposed(record) is None:
        return None
    return Value(max(0.0, alone.middle - (beside.middle if beside else 0.0)))


def _busiest_link(view: ProblemView) -> Figure | None:
    note = "One direction of one link, in one call: frames, with headers and acknowledgements."
    return _plot(view, "busiest-link", "Bytes on the busiest link", note, measures.link_bytes, measures.bytes_unit)


def _payload(view: ProblemView) -> Figure | None:
    def value(record: Record) -> Value | None:
        sent = measures.payload(record)
        return None if view.axis is not Axis.SHAPE and sent is not None and not sent.middle else sent

    note = "Payload of the rank that sends most, in one call. Strategies that send nothing have no line."
    if view.axis is Axis.SHAPE:
        note = "Payload of the rank that sends most, in one call."
    return _plot(view, "bytes-sent", "Bytes sent by a rank", note, value, measures.bytes_unit)


def _memory(view: ProblemView) -> Figure | None:
    note = "What a first call allocates beside its inputs, on the rank with most."
    return _plot(view, "memory", "Memory", note, measures.peak, measures.bytes_unit)


def _links(view: ProblemView) -> Figure | None:
    """Every link of the last place on the axis."""
    place = view.places[-1]
    loads = {
        name: links_of(record) for name in view.strategies if (record := view.find(name, place)) and record.link_bytes
    }
    unit = measures.bytes_unit(link.size for links in loads.values() for link in links)
    series = tuple(
        Series(name, tuple(Point(link.name, Value(link.size / unit.size)) for link in links))
        for name, links in loads.items()
    )
    ranks = f", {place} ranks"
    where = {Axis.TOKENS: f", {place} tokens", Axis.RANKS: ranks, Axis.SHARDS: ranks, Axis.SHAPE: ""}[view.axis]
    note = "What each direction of each link carried in one call. A row of one shade uses all links equally."
    return Figure("links", f"Bytes on every link{where}", note, Form.CELLS, "link", unit.name, series)


def _plot(
    view: ProblemView,
    key: str,
    title: str,
    note: str,
    value: _Quantity,
    unit_of: Callable[[list[float]], Unit],
    *,
    linear: bool = False,
    reference: float | None = None,
) -> Figure | None:
    found = {name: points for name in view.strategies if (points := _values(view, name, value))}
    unit = unit_of([point.value.middle for points in found.values() for point in points])
    series = tuple(Series(name, tuple(_scaled(point, unit) for point in points)) for name, points in found.items())
    return Figure(
        key,
        title,
        note,
        _form(view),
        _X_LABELS[view.axis],
        unit.name,
        series,
        not linear and _spans(view, found.values()),
        reference,
    )


def _spans(view: ProblemView, found: Iterable[list[Point]]) -> bool:
    """Whether figures are such that a logarithmic scale shows them best: over an axis, and all above zero."""
    return view.axis is not Axis.SHAPE and all(point.value.middle > 0 for points in found for point in points)


def _values(view: ProblemView, strategy: str, value: _Quantity) -> list[Point]:
    records = [view.find(strategy, place) for place in view.places]
    found = [(record, value(record)) for record in records if record is not None]
    return [Point(view.at(record), figure) for record, figure in found if figure is not None]


def _scaled(point: Point, unit: Unit, *, bounds: bool = True) -> Point:
    value = point.value
    lower, upper = (None if bound is None or not bounds else bound / unit.size for bound in (value.lower, value.upper))
    return Point(point.x, Value(value.middle / unit.size, lower, upper))


def _form(view: ProblemView) -> Form:
    return Form.BARS if view.axis is Axis.SHAPE else Form.LINES
