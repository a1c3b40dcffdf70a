"""The report as one HTML file: no network, no other files, and nothing in it runs that is not ours."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from tokenring_xdit.bench.records import Record
from tokenring_xdit.bench.report.charts import POINTS, Plot, plot_of, plot_of_trace
from tokenring_xdit.bench.report.figures import figures
from tokenring_xdit.bench.report.measures import number
from tokenring_xdit.bench.report.palette import Style, label, styles
from tokenring_xdit.bench.report.problems import Axis, latest, machines, views
from tokenring_xdit.bench.report.summary import summary
from tokenring_xdit.bench.report.table import table
from tokenring_xdit.bench.report.theme import themes
from tokenring_xdit.bench.report.traces import TracePlot, kinds, look_of, shares
from tokenring_xdit.schedule.timeline import Activity

__all__ = ["page"]

_GROUPS = {
    Axis.TOKENS: "Over sequence lengths",
    Axis.RANKS: "Over ranks",
    Axis.SHARDS: "Over ranks, with as many tokens on each",
    Axis.SHAPE: "One shape",
}
_ASSETS = resources.files("tokenring_xdit.bench.report") / "assets"


@dataclass(frozen=True)
class _Panel:
    """A plot on the page.

    Attributes:
        title: Above it.
        note: Below it.
        strategies: Those that are in it.
        plot: Its number in the page's data.
        wide: Whether it has the page's whole width.
    """

    title: str
    note: str
    strategies: Sequence[str]
    plot: int
    wide: bool


@dataclass(frozen=True)
class _Page:
    """Panels, and the plots in them as the page's script draws them: charts that several plots share are there once."""

    looks: Mapping[str, Style]
    kinds: Sequence[str]
    charts: list[Mapping[str, Any]] = field(default_factory=list)
    plots: list[dict[str, Any]] = field(default_factory=list)

    def settings(self, records: Sequence[Record]) -> list[tuple[str, list[tuple[str, str, list[_Panel]]]]]:
        """Settings, and of each the views: what they are over, their name and their panels."""
        found: dict[str, list[tuple[str, str, list[_Panel]]]] = {}
        for view in views(records):
            panels = [
                self._panel(figure.title, figure.note, plot_of(figure, self.looks), wide=figure.key == "links")
                for figure in figures(view)
            ]
            found.setdefault(str(view.setting), []).append((_GROUPS[view.axis], str(view), panels))
        return list(found.items())

    def timelines(self, traces: Sequence[TracePlot]) -> list[tuple[str, list[_Panel]]]:
        """Problems with timelines, the fastest strategy of each first, on one time axis."""
        problems: dict[str, list[TracePlot]] = {}
        for trace in traces:
            problem = f"{trace.setting}, {trace.tokens} tokens, {trace.ranks} ranks"
            problems.setdefault(problem, []).append(trace)
        found = []
        for problem, own in problems.items():
            own.sort(key=lambda trace: trace.timeline.makespan)
            longest = max(max((span.end for span in trace.timeline.spans), default=0.0) for trace in own) or 1e-3
            found.append((problem, [self._timeline(trace, longest) for trace in own]))
        return found

    def _timeline(self, trace: TracePlot, longest: float) -> _Panel:
        share = shares(trace.timeline)
        note = f"{share[Activity.ATTEND]:.0%} of the time ranks attend, {share[Activity.WAIT]:.0%} they wait."
        title = f"{label(trace.strategy)}: {number(trace.timeline.makespan * 1e3)} ms"
        return self._panel(title, note, plot_of_trace(trace, longest, self.kinds, legend=False))

    def _panel(self, title: str, note: str, plot: Plot, *, wide: bool = False) -> _Panel:
        if plot.chart not in self.charts:
            self.charts.append(plot.chart)
        chart = self.charts.index(plot.chart)
        self.plots.append({"chart": chart, "rows": plot.rows, "parameters": plot.parameters})
        return _Panel(title, note, plot.parameters["shown"], len(self.plots) - 1, wide)


def page(records: Sequence[Record], traces: Sequence[TracePlot]) -> str:
    """The report.

    Args:
        records: Records of a sweep, at least one.
        traces: Timelines of its cases; there may be none.
    """
    import jinja2

    once, spans = latest(records), kinds(traces)
    looks = styles([record.strategy for record in once] + [trace.strategy for trace in traces])
    library, script = _library(), (_ASSETS / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((_ASSETS / "page.html.j2").read_text(encoding="utf-8"))
    drawn = _Page(looks, spans)
    settings, timelines = drawn.settings(once), drawn.timelines(traces)
    data = {"charts": drawn.charts, "plots": drawn.plots, "themes": themes(looks, spans), "name": POINTS}
    found = {record.finished for record in once if record.finished}
    return template.render(
        css=(_ASSETS / "page.css").read_text(encoding="utf-8"),
        library=base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode(),
        script=script,
        hashes=[_hash(library), _hash(script)],
        data=_inside_script(data),
        summary=summary(records),
        label=label,
        number=number,
        looks=looks,
        table=table(once),
        settings=settings,
        traced=timelines,
        kinds=[look_of(kind) for kind in spans],
        machines=_machines(once),
        commands=list(dict.fromkeys(record.command for record in once if record.command)),
        finished=(min(found), max(found)) if found else None,
    )


@lru_cache(maxsize=1)
def _library() -> str:
    """The code of Vega, which draws the plots in a browser."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed")


def _machines(records: Sequence[Record]) -> list[tuple[dict[str, str], list[str]]]:
    """What is known of each machine, and of the circumstances there; several values where it changed."""
    found = []
    for cpu, cores, device in machines(records):
        own = [
            record
            for record in records
            if tuple(str(record.machine.get(n, "")) for n in ("cpu", "cores", "device")) == (cpu, cores, device)
            and record.machine
        ]
        names = list(dict.fromkeys(name for record in own for name in record.machine))
        facts = {
            name.replace("_", " "): ", ".join(dict.fromkeys(str(r.machine[name]) for r in own if name in r.machine))
            for name in names
        }
        loads = [record.load_at_start for record in own if record.load_at_start is not None]
        shares_found = [record.network_share for record in own if record.network_share is not None]
        if loads:
            facts["load average at the start"] = _range(loads, "{:.2f}")
        if shares_found:
            facts["least share of a stated rate"] = _range(shares_found, "{:.0%}")
        found.append((facts, sorted({record.peak_measure for record in own if record.peak_measure})))
    return found


def _range(values: Sequence[float], form: str) -> str:
    least, most = form.format(min(values)), form.format(max(values))
    return least if least == most else f"{least} to {most}"


def _hash(script: str) -> str:
    """By which the page says what may run in it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _inside_script(data: Any) -> str:
    """JSON that does not end the element it stands in, whatever it says."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")
