"""Figures and timelines as Vega-Lite charts, from which the page and the files of plots come.

A chart has no colours of its own, :mod:`.theme` has them, and no data: figures of one kind share it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import altair as alt

from tokenring_xdit.bench.report.figures import Figure, Form, Part, Point, Series
from tokenring_xdit.bench.report.measures import number, time_unit
from tokenring_xdit.bench.report.palette import Style, label
from tokenring_xdit.bench.report.symbols import DASHES, SYMBOLS, key_of
from tokenring_xdit.bench.report.traces import TracePlot, boxes, kind_of, look_of
from tokenring_xdit.schedule.timeline import Activity, Span

__all__ = ["POINTS", "Plot", "plot_of", "plot_of_trace"]

POINTS = "points"
"""The name of the marks that are figures, and of the data behind them."""

_LINES_HEIGHT, _ROW_HEIGHT, _RANK_HEIGHT = 220, 30, 58
_LONGEST_NAME = 170  # pixels
_COLUMNS = 3  # of a legend; narrow pages have fewer
_ROOM = 1.12  # right of the longest bar, for its figure
_STEPS = (range(1, 10), (1, 2, 5), (1,), range(10, 100))
_MOST_TICKS = 9
_FILLS = {Part.WHOLE: 1.0, Part.COMPUTING: 0.3, Part.HIDDEN: 0.0, Part.EXPOSED: 1.0}
_SHORT = "replace(datum.label, regexp('^schedule:'), '')"  # as :func:`.palette.label` says it


@dataclass(frozen=True)
class Plot:
    """A chart and what is drawn in it.

    Attributes:
        chart: A specification of Vega-Lite without data. As wide as what it stands in.
        rows: The data.
        parameters: Values of the chart's parameters. ``shown`` lists strategies: those that are drawn, in their order.
    """

    chart: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]

    def whole(self) -> dict[str, Any]:
        """The specification with its data."""
        given = [{"name": name, "value": value} for name, value in self.parameters.items()]
        others = [entry for entry in self.chart["params"] if entry["name"] not in self.parameters]
        return {**self.chart, "params": given + others, "data": {"name": POINTS, "values": self.rows}}


@dataclass(frozen=True)
class _Kind:
    """What figures that share a chart have in common; :class:`.figures.Figure` explains the first four."""

    x_label: str
    y_label: str
    logarithmic: bool
    reference: float | None
    bounded: bool  # whether there are quartiles
    looks: tuple[tuple[str, Style], ...]

    @property
    def hues(self) -> alt.Scale:
        return alt.Scale(domain=[name for name, _ in self.looks], range="category")


def plot_of(figure: Figure, looks: Mapping[str, Style]) -> Plot:
    """The plot of a figure.

    Args:
        figure: The figure.
        looks: The styles of all strategies, those of other figures included: the theme has their colours in this order.
    """
    series = list(figure.series)
    if figure.form is Form.LINES:  # the fastest is drawn last, above the others, and what is prominent above it
        series.reverse()
        series.sort(key=lambda entry: looks[entry.strategy].prominent)
    found = [p.value for entry in series for p in entry.points]
    bounds = [bound for value in found for bound in (value.middle, value.lower, value.upper) if bound is not None]
    above = [bound for bound in bounds if bound > 0]
    least = min(above, default=0.0)
    rows = [
        _row(figure, entry, point, least) | _look(looks[entry.strategy], entry.part)
        for entry in series
        for point in entry.points
    ]
    names = list(dict.fromkeys(entry.strategy for entry in figure.series))
    bounded = any("lower" in row for row in rows)
    kind = _Kind(figure.x_label, figure.y_label, figure.logarithmic, figure.reference, bounded, tuple(looks.items()))
    if figure.form is Form.CELLS:
        return Plot(_cells(kind, len(names)), rows, {"shown": names, "rows": names})
    if figure.form is Form.BARS:
        whole = all(entry.part is Part.WHOLE for entry in figure.series)
        most = {"most": _ROOM * max(above, default=1.0)} if whole else {}
        return Plot(_bars(kind, len(names), whole), rows, {"shown": names, "rows": names, **most})
    places = sorted({point.x for entry in series for point in entry.points})
    ticks = {"ticks": _ticks(least, max(above))} if figure.logarithmic else {}
    return Plot(_lines(kind), rows, {"shown": names, "places": places, "columns": _COLUMNS, **ticks})


def _row(figure: Figure, series: Series, point: Point, least: float) -> dict[str, Any]:
    value, said, between = point.value, number(point.value.middle), ""
    row: dict[str, Any] = {"strategy": series.strategy, "x": point.x, "value": _short(value.middle), "said": said}
    if value.lower is not None or value.upper is not None:
        lower = value.middle if value.lower is None else min(value.lower, value.middle)
        upper = value.middle if value.upper is None else max(value.upper, value.middle)
        between = f" ({number(lower)} to {number(upper)})"
        # A logarithmic scale has no place for what is not above zero: such a bar ends where the lowest figure is.
        row |= {"lower": _short(max(lower, least) if figure.logarithmic else lower), "upper": _short(upper)}
    where = f" at {point.x}" if figure.form is not Form.BARS else ""
    part = f", {series.part.value}" if series.part is not Part.WHOLE else ""
    return row | {"told": f"{label(series.strategy)}{where}{part}: {said} {figure.y_label}{between}"}


def _look(style: Style, part: Part) -> dict[str, Any]:
    hides = part is Part.HIDDEN
    symbol = f"{style.symbol.removesuffix('-open')}-open" if hides else style.symbol
    dash = "dot" if hides else style.dash
    return {"part": part.value, "fill": _FILLS[part], "symbol": symbol, "dash": dash, "prominent": style.prominent}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _ticks(least: float, most: float) -> list[float]:
    """Where a logarithmic axis has labels: round figures, several of them and not too many."""
    ladders = ([f"{step}e{power}" for power in range(-9, 10) for step in steps] for steps in _STEPS)
    found = [[float(figure) for figure in ladder if least <= float(figure) <= most] for ladder in ladders]
    return next((figures for figures in found if 2 < len(figures) <= _MOST_TICKS), found[0])


@lru_cache(maxsize=64)
def _lines(kind: _Kind) -> dict[str, Any]:
    y = alt.Y("value:Q", title=kind.y_label, scale=alt.Scale(zero=True), axis=alt.Axis(format="~f"))
    if kind.logarithmic:
        scale = alt.Scale(type="log", nice=False, padding=12)
        y = alt.Y("value:Q", title=kind.y_label, scale=scale, axis=_axis_with_unit(kind.y_label))
    base = alt.Chart().encode(
        alt.X("x:Q", title=kind.x_label)
        .scale(type="log", base=2, nice=False, padding=16)
        .axis(values=alt.ExprRef("places"), format="d", grid=False),
        alt.Color("strategy:N", scale=kind.hues, legend=None),
        detail="part:N",
    )
    thick = "datum.prominent"
    line = base.mark_line().encode(
        y,
        alt.StrokeDash("dash:N", legend=None).scale(domain=list(DASHES), range=list(DASHES.values())),
        strokeWidth=alt.when(thick).then(alt.value(3.5)).otherwise(alt.value(2)),
    )
    quartiles = [base.mark_rule().encode(alt.Y("lower:Q"), alt.Y2("upper:Q"))] if kind.bounded else []
    points = (
        base.mark_point(filled=True, opacity=1)
        .encode(
            y,
            alt.Shape("symbol:N", legend=None).scale(domain=list(SYMBOLS), range=list(SYMBOLS.values())),
            size=alt.when(thick).then(alt.value(110)).otherwise(alt.value(64)),
            tooltip="told:N",
        )
        .properties(name=POINTS)
    )
    layers = [_key(kind), line, *quartiles, points, *_reference(kind, "y")]
    whole = alt.layer(*layers).resolve_scale(fill="independent", shape="independent")
    return _chart(whole, _LINES_HEIGHT, "shown", "places", "columns", *(["ticks"] if kind.logarithmic else []))


def _axis_with_unit(unit: str) -> alt.Axis:
    """A logarithmic axis, which has few labels: each says its unit, as digits alone do not show how large they are."""
    words = f"format(datum.value, '~f') + '\\u00a0{unit}'"
    return alt.Axis(values=alt.ExprRef("ticks"), labelExpr=words)


def _key(kind: _Kind) -> alt.Chart:
    """A layer of which only the legend is seen: each strategy's marker on its line, which no other legend has."""
    legend = alt.Legend(
        title=None,
        values=alt.ExprRef("shown"),
        columns=alt.ExprRef("columns"),
        labelLimit=alt.ExprRef("columns > 2 ? 120 : 96"),
        labelExpr=_SHORT,
        symbolSize=50,
        symbolOpacity=1,
        labelOffset=16,
        columnPadding=12,
    )
    paths = [key_of(style.symbol, style.dash) for _, style in kind.looks]
    keys = alt.Scale(domain=[name for name, _ in kind.looks], range=paths)
    found: alt.Chart = (
        alt.Chart(alt.InlineData([], name="key"))
        .mark_point(filled=True)
        .encode(
            alt.Fill("strategy:N", scale=kind.hues, legend=legend),
            alt.Shape("strategy:N", scale=keys, legend=legend),
        )
    )
    return found


@lru_cache(maxsize=64)
def _bars(kind: _Kind, rows: int, whole: bool) -> dict[str, Any]:
    base = alt.Chart().encode(_strategies(kind))
    scale = alt.Scale(domainMax=alt.ExprRef("most")) if whole else alt.Scale()
    bars = (
        base.mark_bar(strokeWidth=1.5, height=alt.RelativeBandSize(0.75))
        .encode(
            alt.X("value:Q", title=kind.y_label, stack="zero", scale=scale).axis(format="~f"),
            alt.Fill("strategy:N", scale=kind.hues, legend=None),
            alt.Stroke("strategy:N", scale=kind.hues, legend=None),
            alt.FillOpacity("fill:Q", scale=None),
            tooltip="told:N",
        )
        .properties(name=POINTS)
    )
    layers = [bars]
    if kind.bounded and whole:
        layers.append(base.mark_rule(style="quartiles").encode(alt.X("lower:Q"), alt.X2("upper:Q")))
    if whole:
        end = base.transform_calculate(end="max(0, datum.value, datum.upper || 0)")
        layers.append(end.mark_text(style="figure", align="left", dx=5).encode(alt.X("end:Q"), alt.Text("said:N")))
    drawn = alt.layer(*layers, *_reference(kind, "x"))
    return _chart(drawn, _ROW_HEIGHT * rows, "shown", "rows", *(["most"] if whole else []))


@lru_cache(maxsize=64)
def _cells(kind: _Kind, rows: int) -> dict[str, Any]:
    legend = alt.Legend(title=kind.y_label, direction="horizontal", gradientThickness=10)
    cells = alt.Chart(name=POINTS).mark_rect(style="outline", strokeWidth=2)
    cells = cells.encode(
        alt.X("x:N", title=None, sort=None).axis(labelAngle=-90, ticks=False, domain=False),
        _strategies(kind),
        alt.Color("value:Q", legend=legend).scale(domainMin=0, range="heatmap", nice=False),
        tooltip="told:N",
    )
    return _chart(alt.layer(cells), _ROW_HEIGHT * rows, "shown", "rows")


def _strategies(kind: _Kind) -> alt.Y:
    """An axis of strategies, the first one at its top."""
    prominent = json.dumps([name for name, style in kind.looks if style.prominent])
    bold = {"condition": {"test": f"indexof({prominent}, datum.value) >= 0", "value": "bold"}, "value": "normal"}
    axis = alt.Axis(
        labelExpr=_SHORT, labelLimit=_LONGEST_NAME, labelFontWeight=bold, labelOverlap=False, ticks=False, domain=False
    )
    return alt.Y("strategy:N", title=None, axis=axis).scale(domain=alt.ExprRef("rows"))


def _reference(kind: _Kind, axis: str) -> list[alt.Chart]:
    if kind.reference is None:
        return []
    line = alt.Chart(alt.InlineData([{}], name="reference")).mark_rule(style="reference")
    return [line.encode(**{axis: alt.datum(kind.reference)})]


def plot_of_trace(trace: TracePlot, span: float, kinds: Sequence[str], *, legend: bool) -> Plot:
    """The plot of a timeline. Its parameter ``range`` is what the time axis shows, ``brush`` what somebody marks of it.

    Args:
        trace: The timeline.
        span: Seconds that the axis has; the same for timelines that are compared.
        kinds: All kinds of span, those of other timelines included: the theme has their colours in this order.
        legend: Whether to say what the colours stand for; a page with many timelines does so once.
    """
    unit = time_unit([span])
    rows = [
        {
            "kind": look_of(kind_of(box.span)).words,
            "start": _short(box.span.start / unit.size),
            "end": _short(box.span.end / unit.size),
            "top": round(box.top, 4),
            "bottom": round(box.bottom, 4),
            "told": _told(box.span, unit.size, unit.name),
        }
        for box in boxes(trace.timeline)
    ]
    words = tuple(look_of(kind).words for kind in kinds)
    parameters = {"shown": [trace.strategy], "range": [0, 1.01 * span / unit.size]}
    return Plot(_timeline(unit.name, trace.timeline.world_size, words, legend), rows, parameters)


@lru_cache(maxsize=64)
def _timeline(unit: str, ranks: int, words: tuple[str, ...], explained: bool) -> dict[str, Any]:
    brush = alt.selection_interval(
        name="brush",
        encodings=["x"],
        on="[pointerdown[event.pointerType !== 'touch'], window:pointerup] > window:pointermove!",  # fingers scroll
        clear="window:pointerup",
        translate=False,
        zoom=False,
    )
    names = alt.Axis(
        values=[rank + 0.5 for rank in range(ranks)], labelExpr="'rank ' + floor(datum.value)", grid=False, ticks=False
    )
    legend = alt.Legend(title=None, columns=6, symbolType="square", symbolStrokeWidth=0) if explained else None
    spans = (
        alt.Chart(name=POINTS)
        .mark_rect(style="outline", strokeWidth=0.5, clip=True)
        .encode(
            alt.X("start:Q", title=unit).scale(domain=alt.ExprRef("range"), nice=False),
            alt.X2("end:Q"),
            alt.Y("top:Q", title=None, axis=names).scale(domain=[ranks, 0], nice=False, zero=False),
            alt.Y2("bottom:Q"),
            alt.Fill("kind:N", legend=legend).scale(domain=list(words), range="ordinal"),
            tooltip="told:N",
        )
        .add_params(brush)
    )
    between = alt.Chart(alt.InlineData([{"rank": rank} for rank in range(1, ranks)], name="ranks"))
    lines = between.mark_rule(style="separator").encode(alt.Y("rank:Q"))
    return _chart(alt.layer(lines, spans), _RANK_HEIGHT * ranks, "shown", "range")


def _told(span: Span, size: float, unit: str) -> str:
    to = {Activity.SEND: " to", Activity.RECEIVE: " from"}.get(span.activity, "")
    peer = f"{to} rank {span.peer}" if span.peer is not None else ""
    carried = f", {span.size / 1e6:.3g} MB" if span.size else ""
    channel = f" on {span.channel}" if span.channel else ""
    times = f"{number(span.start / size)} to {number(span.end / size)} {unit}"
    return f"rank {span.rank}: {span.activity.value} {span.what}{peer}{channel}{carried}; {times}"


def _chart(drawn: alt.LayerChart | alt.FacetChart, height: int, *parameters: str) -> dict[str, Any]:
    """A chart as JSON, without data, the colours of a theme, and the address of Vega-Lite's schema."""
    whole = drawn.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        data=alt.NamedData(POINTS),
    )
    if "range" not in parameters:
        whole = whole.transform_filter("indexof(shown, datum.strategy) >= 0")
    whole = whole.add_params(*(alt.param(name=name, value=None) for name in parameters))
    return {name: value for name, value in whole.to_dict().items() if name not in ("config", "data", "$schema")}
