"""The same plots as PNG and SVG files, for papers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenring_xdit.bench.records import Record
from tokenring_xdit.bench.report.figures import Figure, Form, Part, Series, figures
from tokenring_xdit.bench.report.measures import number, time_unit
from tokenring_xdit.bench.report.palette import Style, label, styles
from tokenring_xdit.bench.report.problems import Axis, View, latest, views
from tokenring_xdit.bench.report.traces import KINDS, OTHER_KIND, Trace, boxes, kind_of, kinds
from tokenring_xdit.outputs import replacing
from tokenring_xdit.schedule.timeline import Activity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["write_plots"]

_INCHES = 6.4
_SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "triangle-left": "<",
    "triangle-right": ">",
    "x": "X",
    "cross": "P",
    "star": "*",
    "pentagon": "p",
    "hexagon": "h",
}
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_ALPHA = {Part.WHOLE: 1.0, Part.COMPUTING: 0.3, Part.HIDDEN: 0.6, Part.EXPOSED: 1.0}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tokenring-xdit",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDE2E8",
    "hatch.linewidth": 0.8,
}


def write_plots(folder: Path, records: Sequence[Record], traces: Sequence[Trace]) -> tuple[Path, ...]:
    """Write each plot as PNG and as SVG. Shapes that are in a plot over lengths or ranks have none of their own.

    Args:
        folder: Made where it is missing; files of the same names are replaced.
        records: Of a sweep.
        traces: Timelines of its cases.

    Returns:
        The files.
    """
    import matplotlib as mpl

    once = latest(records)
    looks = styles([record.strategy for record in once] + [trace.strategy for trace in traces])
    names: Counter[str] = Counter()
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_SETTINGS):
        for name, canvas in _canvases(once, traces, looks):
            names[name] += 1
            file = folder / (name if names[name] == 1 else f"{name}-{names[name]}")
            for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
                written.append(file.with_name(file.name + suffix))
                with replacing(written[-1]) as draft:
                    canvas.savefig(draft, dpi=200, bbox_inches="tight", metadata=metadata)
    return tuple(written)


def _canvases(
    records: Sequence[Record], traces: Sequence[Trace], looks: Mapping[str, Style]
) -> Iterator[tuple[str, Canvas]]:
    found = views(records)
    several = len({view.setting for view in found}) > 1
    for view in _worth_a_file(found):
        where = f"{_slug(str(view))}{f'--{_slug(str(view.setting))}' if several else ''}"
        for figure in figures(view):
            yield f"{figure.key}--{where}", _canvas(figure, view, looks)
    for trace in traces:
        where = f"{trace.tokens}-tokens-{trace.ranks}-ranks{f'--{_slug(str(trace.setting))}' if several else ''}"
        yield f"timeline--{_slug(label(trace.strategy))}--{where}", _timeline(trace)


def _worth_a_file(found: Sequence[View]) -> list[View]:
    over = {id(record) for view in found if view.axis is not Axis.SHAPE for record in view.records}
    return [view for view in found if view.axis is not Axis.SHAPE or not over.issuperset(map(id, view.records))]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._=]+", "-", text.lower().replace("'", "")).strip("-")


def _canvas(figure: Figure, view: View, looks: Mapping[str, Style]) -> Canvas:
    draw: Callable[[Axes, Figure, Mapping[str, Style]], None]
    draw = {Form.LINES: _lines, Form.BARS: _bars, Form.CELLS: _cells}[figure.form]
    rows = len({series.strategy for series in figure.series})
    height = 3.6 if figure.form is Form.LINES else 1.2 + 0.32 * rows
    canvas, axes = _blank(height)
    axes.set_title(f"{figure.title}\n", loc="left", fontweight="bold")
    axes.text(0, 1.02, _plain(f"{view.setting}; {view}"), transform=axes.transAxes, fontsize=7, va="bottom")
    draw(axes, figure, looks)
    return canvas


def _blank(height: float) -> tuple[Canvas, Axes]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(_INCHES, height), layout="constrained")
    return canvas, canvas.subplots()


def _lines(axes: Axes, figure: Figure, looks: Mapping[str, Style]) -> None:
    from matplotlib.ticker import LogFormatter

    for series in figure.series:
        style, hides = looks[series.strategy], series.part is Part.HIDDEN
        opened = hides or style.symbol.endswith("-open")
        axes.errorbar(
            [int(point.x) for point in series.points],
            [point.value.middle for point in series.points],
            yerr=_errors(series),
            color=style.hue.light,
            marker=_SYMBOLS[style.symbol.removesuffix("-open")],
            markerfacecolor="white" if opened else style.hue.light,
            linestyle=":" if hides else _DASHES[style.dash],
            linewidth=2.6 if style.prominent else 1.4,
            markersize=6,
            capsize=2,
            elinewidth=0.8,
            zorder=4 if style.prominent else 3,
            label=None if hides else _plain(label(series.strategy)),
        )
    places = sorted({int(point.x) for series in figure.series for point in series.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [str(place) for place in places], minor=False)
    axes.minorticks_off()
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if figure.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if figure.reference is not None:
        axes.axhline(figure.reference, color="#1C232C", linestyle=":", linewidth=0.8)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _bars(axes: Axes, figure: Figure, looks: Mapping[str, Style]) -> None:
    names = list(dict.fromkeys(series.strategy for series in figure.series))
    ends = dict.fromkeys(names, 0.0)
    for series in figure.series:
        style, value = looks[series.strategy], series.points[0].value
        below = value.middle < 0  # noise: to the left of zero, as it is
        axes.barh(
            names.index(series.strategy),
            value.middle,
            left=0.0 if below else ends[series.strategy],
            height=0.7,
            color=style.hue.light,
            alpha=_ALPHA[series.part],
            hatch="//" if series.part is Part.HIDDEN else None,
            edgecolor="white" if series.part is Part.HIDDEN else style.hue.light,
            xerr=_errors(series),
            error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#1C232C"},
        )
        ends[series.strategy] += max(0.0, value.middle)
    if all(series.part is Part.WHOLE for series in figure.series):
        for place, series in enumerate(figure.series):
            value = series.points[0].value
            axes.annotate(
                number(value.middle),
                (max(value.middle, value.upper or 0.0), place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.margins(x=0.12)
    axes.set_yticks(range(len(names)), [_plain(label(name)) for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(figure.y_label)
    if figure.reference is not None:
        axes.axvline(figure.reference, color="#1C232C", linestyle=":", linewidth=0.8)


def _cells(axes: Axes, figure: Figure, looks: Mapping[str, Style]) -> None:
    columns = list(dict.fromkeys(str(point.x) for series in figure.series for point in series.points))
    values = [
        [{str(point.x): point.value.middle for point in series.points}.get(column, float("nan")) for column in columns]
        for series in figure.series
    ]
    picture = axes.imshow(values, aspect="auto", cmap="Blues", vmin=0)
    axes.set_xticks(range(len(columns)), [_plain(column) for column in columns], rotation=90, fontsize=7)
    axes.set_yticks(range(len(figure.series)), [_plain(label(series.strategy)) for series in figure.series])
    axes.grid(visible=False)
    assert axes.figure is not None
    axes.figure.colorbar(picture, ax=axes, label=figure.y_label)


def _timeline(trace: Trace) -> Canvas:
    timeline = trace.timeline
    unit = time_unit([timeline.makespan])
    canvas, axes = _blank(1.0 + 0.62 * timeline.world_size)
    axes.set_title(f"{_plain(label(trace.strategy))}: one attention call\n", loc="left", fontweight="bold")
    where = f"{trace.setting}; {trace.tokens} tokens, {trace.ranks} ranks"
    axes.text(0, 1.02, _plain(where), transform=axes.transAxes, fontsize=7, va="bottom")
    where_drawn = boxes(timeline)
    for kind in kinds([trace]):
        own = [box for box in where_drawn if kind_of(box.span) == kind]
        look = KINDS.get(kind, OTHER_KIND)
        axes.barh(
            [box.top for box in own],
            [(box.span.end - box.span.start) / unit.size for box in own],
            left=[box.span.start / unit.size for box in own],
            height=[box.bottom - box.top for box in own],
            align="edge",
            color=look.hue.light,
            hatch="////" if kind == Activity.WAIT.value else None,
            edgecolor="white",
            linewidth=0.2,
            label=look.words or _plain(kind),
        )
    axes.set_yticks(
        [rank + 0.5 for rank in range(timeline.world_size)], [f"rank {r}" for r in range(timeline.world_size)]
    )
    axes.set_ylim(timeline.world_size, 0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(unit.name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return canvas


def _errors(series: Series) -> list[list[float]] | None:
    values = [point.value for point in series.points]
    if all(value.lower is None and value.upper is None for value in values):
        return None
    lower = [0.0 if v.lower is None else max(0.0, v.middle - v.lower) for v in values]
    upper = [0.0 if v.upper is None else max(0.0, v.upper - v.middle) for v in values]
    return [lower, upper]


def _plain(text: str) -> str:
    """Text without formulas."""
    return text.replace("$", r"\$")
