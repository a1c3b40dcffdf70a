"""The charts as PNG and SVG files, for papers."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenring_xdit.bench.records import Record
from tokenring_xdit.bench.report.charts import Plot, plot_of, plot_of_trace
from tokenring_xdit.bench.report.figures import figures
from tokenring_xdit.bench.report.palette import Style, label, styles
from tokenring_xdit.bench.report.problems import Axis, ProblemView, latest, views
from tokenring_xdit.bench.report.theme import themes
from tokenring_xdit.bench.report.traces import TracePlot, kinds
from tokenring_xdit.outputs import write_whole

__all__ = ["write_plots"]

_WIDTH = 560  # pixels
_LINE = 90  # characters
_DOTS_PER_INCH = 200


def write_plots(folder: Path, records: Sequence[Record], traces: Sequence[TracePlot]) -> tuple[Path, ...]:
    """Write each plot as PNG and as SVG. Shapes that are in a plot over lengths or ranks have none of their own.

    Args:
        folder: Made where it is missing; files of the same names are replaced.
        records: Records of a sweep.
        traces: Timelines of its cases.

    Returns:
        The files.
    """
    import vl_convert

    once = latest(records)
    looks = styles([record.strategy for record in once] + [trace.strategy for trace in traces])
    light = themes(looks, kinds(traces))["light"]
    names: Counter[str] = Counter()
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, title, plot in _plots(once, traces, looks):
        names[name] += 1
        file = folder / (name if names[name] == 1 else f"{name}-{names[name]}")
        whole = {**plot.whole(), "title": title, "width": _WIDTH, "config": light}
        drawn = vl_convert.vegalite_to_svg(whole)
        for suffix, content in ((".png", vl_convert.svg_to_png(drawn, ppi=_DOTS_PER_INCH)), (".svg", drawn)):
            written.append(file.with_name(file.name + suffix))
            write_whole(written[-1], content)
    return tuple(written)


def _plots(
    records: Sequence[Record], traces: Sequence[TracePlot], looks: Mapping[str, Style]
) -> Iterator[tuple[str, dict[str, Any], Plot]]:
    """Of each plot the name of its file, its title and itself."""
    found = views(records)
    several = len({view.setting for view in found}) > 1
    for view in _worth_a_file(found):
        where = f"{_slug(str(view))}{f'--{_slug(str(view.setting))}' if several else ''}"
        for figure in figures(view):
            title = {"text": figure.title, "subtitle": _lines(str(view.setting), str(view), figure.note)}
            yield f"{figure.key}--{where}", title, plot_of(figure, looks)
    for trace in traces:
        where = f"{trace.tokens}-tokens-{trace.ranks}-ranks{f'--{_slug(str(trace.setting))}' if several else ''}"
        shape = f"{trace.tokens} tokens, {trace.ranks} ranks"
        title = {"text": f"{label(trace.strategy)}: one attention call", "subtitle": _lines(str(trace.setting), shape)}
        plot = plot_of_trace(trace, trace.timeline.makespan, kinds(traces), legend=True)
        yield f"timeline--{_slug(label(trace.strategy))}--{where}", title, plot


def _lines(*paragraphs: str) -> list[str]:
    return [line for text in paragraphs for line in textwrap.wrap(text, _LINE)]


def _worth_a_file(found: Sequence[ProblemView]) -> list[ProblemView]:
    over = {id(record) for view in found if view.axis is not Axis.SHAPE for record in view.records}
    return [view for view in found if view.axis is not Axis.SHAPE or not over.issuperset(map(id, view.records))]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._=]+", "-", text.lower().replace("'", "")).strip("-")
