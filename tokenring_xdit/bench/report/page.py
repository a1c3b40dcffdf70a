"""The report as one HTML file: no network, no other files, and nothing in it runs that is not ours."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from tokenring_xdit.bench.records import Record
from tokenring_xdit.bench.report.figures import figures
from tokenring_xdit.bench.report.interactive import plot_of, plot_of_trace
from tokenring_xdit.bench.report.measures import number
from tokenring_xdit.bench.report.palette import BACKGROUNDS, Style, label, styles
from tokenring_xdit.bench.report.problems import Axis, latest, machines, views
from tokenring_xdit.bench.report.summary import summary
from tokenring_xdit.bench.report.table import table
from tokenring_xdit.bench.report.traces import KINDS, OTHER_KIND, Trace, kinds, shares
from tokenring_xdit.schedule.timeline import Activity

__all__ = ["page"]

_GROUPS = {
    Axis.TOKENS: "Over sequence lengths",
    Axis.RANKS: "Over ranks",
    Axis.SHARDS: "Over ranks that hold as much each",
    Axis.SHAPE: "One shape",
}
_ASSETS = resources.files("tokenring_xdit.bench.report") / "assets"


def page(records: Sequence[Record], traces: Sequence[Trace], plotly: str) -> str:
    """The report.

    Args:
        records: Of a sweep, at least one.
        traces: Timelines of its cases; there may be none.
        plotly: The code of plotly.js.
    """
    import jinja2

    once = latest(records)
    looks = styles([record.strategy for record in once] + [trace.strategy for trace in traces])
    script = (_ASSETS / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((_ASSETS / "page.html.j2").read_text(encoding="utf-8"))
    data = {**_plots(once, looks), "timelines": _timelines(traces), "theme": _theme(looks, traces)}
    found = {record.finished for record in once if record.finished}
    return template.render(
        css=(_ASSETS / "page.css").read_text(encoding="utf-8"),
        scripts=(plotly, script),
        hashes=[_hash(plotly), _hash(script)],
        data=_inside_script(data),
        summary=summary(records),
        label=label,
        number=number,
        looks=looks,
        table=table(once),
        settings=data["settings"],
        traced=data["timelines"],
        kinds=[(kind, KINDS.get(kind, OTHER_KIND)) for kind in kinds(traces)],
        machines=_machines(once),
        commands=list(dict.fromkeys(record.command for record in once if record.command)),
        finished=(min(found), max(found)) if found else None,
    )


def _plots(records: Sequence[Record], looks: Mapping[str, Style]) -> dict[str, Any]:
    """Settings, and the plots of each of their views."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for view in views(records):
        drawn = [
            {"key": figure.key, "title": figure.title, "note": figure.note, **plot_of(figure, looks)}
            for figure in figures(view)
        ]
        settings.setdefault(str(view.setting), []).append(
            {"label": str(view), "group": _GROUPS[view.axis], "strategies": view.strategies, "figures": drawn}
        )
    return {"settings": [{"label": setting, "views": found} for setting, found in settings.items()]}


def _timelines(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Problems with timelines, the fastest strategy of each first, on one time axis."""
    problems: dict[str, list[Trace]] = {}
    for trace in traces:
        problem = f"{trace.setting}, {trace.tokens} tokens, {trace.ranks} ranks"
        problems.setdefault(problem, []).append(trace)
    found = []
    for problem, own in problems.items():
        own.sort(key=lambda trace: trace.timeline.makespan)
        longest = max(max((span.end for span in trace.timeline.spans), default=0.0) for trace in own) or 1e-3
        plots = []
        for trace in own:
            share = shares(trace.timeline)
            words = f"{share[Activity.ATTEND]:.0%} of the time ranks attend, {share[Activity.WAIT]:.0%} they wait"
            plots.append(
                {
                    "strategy": trace.strategy,
                    "label": label(trace.strategy),
                    "time": f"{number(trace.timeline.makespan * 1e3)} ms",
                    "words": words,
                    **plot_of_trace(trace, longest),
                }
            )
        found.append({"label": problem, "plots": plots})
    return found


def _theme(looks: Mapping[str, Style], traces: Sequence[Trace]) -> dict[str, dict[str, Any]]:
    """What the names of colours in plots stand for, light and dark."""
    scales = (
        ["#EEF3F8", "#9CC4E4", "#3C87BE", "#0B4A80", "#052544"],
        ["#1B222B", "#17456B", "#2B7FB8", "#7CC4EE", "#E8F6FF"],
    )
    themes = {}
    for place, name in enumerate(("light", "dark")):
        themes[name] = {
            "@paper": BACKGROUNDS[place],
            "@text": ("#1C232C", "#E4E9F0")[place],
            "@grid": ("#DDE2E8", "#303843")[place],
            "@scale": [[step / 4, colour] for step, colour in enumerate(scales[place])],
            **{f"@strategy:{strategy}": getattr(style.hue, name) for strategy, style in looks.items()},
            **{f"@kind:{kind}": getattr(KINDS.get(kind, OTHER_KIND).hue, name) for kind in kinds(traces)},
        }
    return themes


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
