"""Figures as plotly takes them: traces and layouts, plain data. Colours are names that the page replaces.

``@text``, ``@grid`` and so on are the theme's, ``@strategy:NAME`` a strategy's, ``@kind:NAME`` a span's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tokenring_xdit.bench.report.figures import Figure, Form, Part, Series
from tokenring_xdit.bench.report.measures import number, time_unit
from tokenring_xdit.bench.report.palette import Style, label
from tokenring_xdit.bench.report.traces import Trace, boxes, kind_of, kinds
from tokenring_xdit.schedule.timeline import Activity

__all__ = ["plot_of", "plot_of_trace"]

_MOST_TICKS = 8
_PATTERNS = {Part.WHOLE: "", Part.COMPUTING: "", Part.HIDDEN: "/", Part.EXPOSED: ""}
_OPACITY = {Part.WHOLE: 1.0, Part.COMPUTING: 0.3, Part.HIDDEN: 0.6, Part.EXPOSED: 1.0}
_RANK_HEIGHT = 58
_LONGEST_NAME = 28
_BUTTONS = 26
"""Height of plotly's buttons, which would otherwise stand on what is plotted."""


def plot_of(figure: Figure, looks: Mapping[str, Style]) -> dict[str, Any]:
    """A figure for plotly.

    Args:
        figure: The figure.
        looks: The style of every strategy in it.

    Returns:
        ``data`` and ``layout``. Each trace has its strategy in ``meta``.
    """
    draw = {Form.LINES: _lines, Form.BARS: _bars, Form.CELLS: _cells}[figure.form]
    return draw(figure, looks)


def _lines(figure: Figure, looks: Mapping[str, Style]) -> dict[str, Any]:
    data = []
    for series in reversed(figure.series):  # the fastest is drawn last, above the others
        style = looks[series.strategy]
        colour = f"@strategy:{series.strategy}"
        hides = series.part is Part.HIDDEN
        data.append(
            {
                **_common(series),
                "type": "scatter",
                "mode": "lines+markers",
                "x": [point.x for point in series.points],
                "y": [point.value.middle for point in series.points],
                "error_y": _error(series, colour),
                "line": {
                    "color": colour,
                    "width": 3.5 if style.prominent else 2,
                    "dash": "dot" if hides else style.dash,
                },
                "marker": {
                    "color": colour,
                    "size": 10 if style.prominent else 8,
                    "symbol": f"{style.symbol.removesuffix('-open')}-open" if hides else style.symbol,
                },
                "showlegend": not hides,
                "hovertemplate": _hover(series, "%{x}", f"%{{y:.3~g}} {figure.y_label}"),
            }
        )
    data.sort(key=lambda trace: looks[trace["meta"]["strategy"]].prominent)
    places = sorted({point.x for series in figure.series for point in series.points if isinstance(point.x, int)})
    shown = places[:: -(-len(places) // _MOST_TICKS)]
    x_axis = {
        **_axis(figure.x_label),
        "type": "log",
        "tickvals": shown,
        "ticktext": [str(place) for place in shown],
        "tickangle": 0,
    }
    y_axis = {**_axis(figure.y_label), **_scale(figure)}
    order = [series.strategy for series in figure.series if series.part is not Part.HIDDEN]
    for trace in data:
        trace["legendrank"] = order.index(trace["meta"]["strategy"]) + 1
    layout = {
        **_layout(300),
        "showlegend": True,
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "itemclick": False}
        | {"itemdoubleclick": False},
        "xaxis": x_axis,
        "yaxis": y_axis,
        **_reference(figure, "y"),
    }
    return {"data": data, "layout": layout}


def _scale(figure: Figure) -> dict[str, Any]:
    if figure.logarithmic:
        return {"type": "log", "dtick": "D2", "minor": {"showgrid": False}}
    return {"rangemode": "tozero"}


def _bars(figure: Figure, looks: Mapping[str, Style]) -> dict[str, Any]:
    names = list(dict.fromkeys(series.strategy for series in figure.series))
    data = []
    for series in figure.series:
        colour = f"@strategy:{series.strategy}"
        (point,) = series.points
        data.append(
            {
                **_common(series),
                "type": "bar",
                "orientation": "h",
                "x": [point.value.middle],
                "y": [names.index(series.strategy)],
                "error_x": _error(series, "@text"),
                "marker": {
                    "color": colour,
                    "opacity": _OPACITY[series.part],
                    "line": {"color": colour, "width": 1},
                    "pattern": _pattern(_PATTERNS[series.part]),
                },
                "text": [number(point.value.middle)] if series.part is Part.WHOLE else None,
                "textposition": "inside",
                "insidetextanchor": "start",
                "textangle": 0,
                "hovertemplate": _hover(series, series.part.value, f"%{{x:.3~g}} {figure.y_label}"),
            }
        )
    layout = {
        **_layout(92 + 34 * len(names)),
        "barmode": "relative",
        "bargap": 0.3,
        "xaxis": {**_axis(figure.y_label), "rangemode": "tozero"},
        "yaxis": _names(names, looks),
        **_reference(figure, "x"),
    }
    return {"data": data, "layout": layout}


def _cells(figure: Figure, looks: Mapping[str, Style]) -> dict[str, Any]:
    most = max(point.value.middle for series in figure.series for point in series.points)
    columns = list(dict.fromkeys(str(point.x) for series in figure.series for point in series.points))
    data = [
        {
            **_common(series),
            "type": "heatmap",
            "x": [_escape(str(point.x)) for point in series.points],
            "y": [row],
            "z": [[point.value.middle for point in series.points]],
            "zmin": 0,
            "zmax": most or 1,
            "colorscale": "@scale",
            "showscale": series is figure.series[0],
            "colorbar": {"thickness": 10, "outlinewidth": 0, "title": {"text": figure.y_label}, "tickcolor": "@text"},
            "xgap": 1,
            "ygap": 3,
            "hovertemplate": _hover(series, "%{x}", f"%{{z:.3~g}} {figure.y_label}"),
        }
        for row, series in enumerate(figure.series)
    ]
    layout = {
        **_layout(130 + 30 * len(figure.series)),
        "xaxis": {
            **_axis(""),
            "type": "category",
            "showgrid": False,
            "tickangle": -90,
            "tickvals": [_escape(column) for column in columns][:: -(-len(columns) // 30)],
        },
        "yaxis": _names([series.strategy for series in figure.series], looks),
    }
    return {"data": data, "layout": layout}


def plot_of_trace(trace: Trace, span: float) -> dict[str, Any]:
    """A timeline for plotly: a trace for each kind of span.

    Args:
        trace: The timeline.
        span: Seconds that the axis has; the same for timelines that are compared.
    """
    unit = time_unit([span])
    where = boxes(trace.timeline)
    data = []
    for kind in kinds([trace]):
        own = [box for box in where if kind_of(box.span) == kind]
        waits = kind == Activity.WAIT.value
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": _escape(kind),
                "meta": {"strategy": trace.strategy, "kind": kind},
                "base": [box.span.start / unit.size for box in own],
                "x": [(box.span.end - box.span.start) / unit.size for box in own],
                "y": [round((box.top + box.bottom) / 2, 4) for box in own],
                "width": [round(box.bottom - box.top, 4) for box in own],
                "customdata": [_told(box.span.rank, box.span, unit.size, unit.name) for box in own],
                "hovertemplate": "%{customdata}<extra></extra>",
                "marker": {
                    "color": f"@kind:{kind}",
                    "line": {"color": "@paper", "width": 0.5},
                    "pattern": _pattern("/" if waits else ""),
                },
            }
        )
    ranks = trace.timeline.world_size
    layout = {
        **_layout(64 + _RANK_HEIGHT * ranks),
        "barmode": "overlay",
        "hovermode": "closest",
        "dragmode": "zoom",
        "xaxis": {**_axis(unit.name), "range": [0, 1.01 * span / unit.size], "zeroline": False},
        "yaxis": {
            **_axis(""),
            "range": [ranks, 0],
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "tickvals": [rank + 0.5 for rank in range(ranks)],
            "ticktext": [f"rank {rank}" for rank in range(ranks)],
        },
        "shapes": [
            {
                "type": "line",
                "layer": "below",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": rank,
                "y1": rank,
                "line": {"color": "@grid", "width": 1},
            }
            for rank in range(1, ranks)
        ],
    }
    return {"data": data, "layout": layout}


def _pattern(shape: str) -> dict[str, Any]:
    """Stripes of the background's colour."""
    return {"shape": shape, "fillmode": "overlay", "fgcolor": "@paper", "size": 6, "solidity": 0.3}


def _told(rank: int, span: Any, size: float, unit: str) -> str:
    to = {Activity.SEND: " to", Activity.RECEIVE: " from"}.get(span.activity, "")
    peer = f"{to} rank {span.peer}" if span.peer is not None else ""
    carried = f", {span.size / 1e6:.3g} MB" if span.size else ""
    channel = f" on {span.channel}" if span.channel else ""
    times = f"{number(span.start / size)} to {number(span.end / size)} {unit}"
    return f"rank {rank}: {span.activity.value} {_escape(span.what)}{peer}{_escape(channel)}{carried}<br>{times}"


def _common(series: Series) -> dict[str, Any]:
    return {"name": _escape(label(series.strategy)), "meta": {"strategy": series.strategy, "part": series.part.value}}


def _hover(series: Series, where: str, figure: str) -> str:
    part = f" {series.part.value}" if series.part is Part.HIDDEN and where == "%{x}" else ""
    return f"<b>{_escape(label(series.strategy))}</b> {where}{part}<br>{figure}<extra></extra>"


def _error(series: Series, colour: str) -> dict[str, Any]:
    """Error bars from quartile to quartile, where all points have both."""
    found = [(point.value.middle, point.value.lower, point.value.upper) for point in series.points]
    return {
        "type": "data",
        "symmetric": False,
        "visible": any(lower is not None or upper is not None for _, lower, upper in found),
        "array": [0 if upper is None else max(0.0, upper - middle) for middle, _, upper in found],
        "arrayminus": [0 if lower is None else max(0.0, middle - lower) for middle, lower, _ in found],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _name(strategy: str, style: Style) -> str:
    """What stands at an axis: not so long that nothing is left for the plot."""
    name = label(strategy)
    short = _escape(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…")
    return f"<b>{short}</b>" if style.prominent else short


def _names(strategies: Sequence[str], looks: Mapping[str, Style]) -> dict[str, Any]:
    """An axis of strategies, the first one at its top."""
    order = list(dict.fromkeys(strategies))
    return {
        **_axis(""),
        "range": [len(order) - 0.5, -0.5],
        "tickvals": list(range(len(order))),
        "ticktext": [_name(name, looks[name]) for name in order],
        "ticksuffix": " ",
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
    }


def _escape(text: str) -> str:
    """Text as plotly writes it, which knows some tags but no entities of quotation marks."""
    return escape(text, quote=False)


def _axis(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "gridcolor": "@grid",
        "linecolor": "@grid",
        "zerolinecolor": "@grid",
        "tickcolor": "@grid",
    }


def _reference(figure: Figure, axis: str) -> dict[str, Any]:
    if figure.reference is None:
        return {}
    other = "x" if axis == "y" else "y"
    ends = {f"{axis}0": figure.reference, f"{axis}1": figure.reference, f"{other}0": 0, f"{other}1": 1}
    line = {"color": "@text", "width": 1, "dash": "dot"}
    return {"shapes": [{"type": "line", f"{other}ref": "paper", **ends, "line": line}]}


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": _BUTTONS, "b": 8},
        "showlegend": False,
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "font": {"color": "@text", "size": 12, "family": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"},
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@grid", "font": {"color": "@text"}},
        "hovermode": "closest",
    }
