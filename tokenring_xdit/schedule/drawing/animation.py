"""The steps of a picture one after the other: the current one stands out, and in it blocks travel along their arrows.

Only style sheets move anything, and only where the reader has not asked for less motion. Without them the picture shows
all steps, as it does on paper.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tokenring_xdit.schedule.drawing.chart import Chart
from tokenring_xdit.schedule.drawing.shapes import add
from tokenring_xdit.schedule.drawing.sheet import Columns
from tokenring_xdit.schedule.drawing.style import ROOT

__all__ = ["animate"]

_STEP, _REST = 2.0, 1.5
"""Seconds that a step takes, and that the whole picture is shown before it starts again."""

_FADED = 0.22


def animate(root: ET.Element, chart: Chart, place: Columns) -> None:
    """Add the rules that move a picture whose steps were drawn by ``draw_sheet``.

    Args:
        root: The picture; its style sheet is extended.
        chart: The steps that it shows.
        place: Where its columns are.
    """
    total = chart.steps * _STEP + _REST
    rules = [f".{ROOT} .step {{ animation: {total:g}s linear infinite; }}"]
    for step in range(chart.steps):
        start, end = (100 * (step + at) * _STEP / total for at in (0, 1))
        rules += [
            f".{ROOT} .s{step} {{ animation-name: {ROOT}-s{step}; }}",
            f"@keyframes {ROOT}-s{step} {{ {_current(start, end, 100 * chart.steps * _STEP / total)} }}",
        ]
    ways = sorted({(move.step, place.way(move.source, move.destination)) for move in chart.moves})
    for number, (step, way) in enumerate(ways):
        start, end = (100 * (step + at) * _STEP / total for at in (0.25, 0.85))
        rules += [
            f".{ROOT} .t{number} {{ animation: {ROOT}-t{number} {total:g}s ease-in-out infinite; }}",
            f"@keyframes {ROOT}-t{number} {{ 0%, {start:.2f}% {{ transform: none; }} "
            f"{end:.2f}%, {end + 3:.2f}% {{ transform: translateX({way:g}px); }} "
            f"{end + 3.01:.2f}%, 100% {{ transform: none; }} }}",
        ]
    names = [text for text in root.iter("text") if (text.text or "").startswith(("step ", "finish"))]
    for step, name in enumerate(names):
        name.set("class", f"muted step s{step}")
    for group in [each for each in root.iter("g") if "data-rank" in each.attrib]:
        group.set("class", f"step s{group.attrib['data-step']}")
    for route in list(root.iter("g")):
        label = next((part for part in route if "data-source" in part.attrib), None)
        if label is None:
            continue
        source, destination, step = (int(label.attrib[f"data-{of}"]) for of in ("source", "destination", "step"))
        route.set("class", f"step s{step}")
        travelling = [part for part in route if not {"link", "tip"} & set(part.get("class", "").split())]
        moved = add(route, "g", class_=f"t{ways.index((step, place.way(source, destination)))}")
        for part in travelling:
            route.remove(part)
            moved.append(part)
    style = root.find("style")
    assert style is not None
    moving = "\n".join(f"  {rule}" for rule in rules)
    style.text = f"{style.text}@media screen and (prefers-reduced-motion: no-preference) {{\n{moving}\n}}\n"


def _current(start: float, end: float, rest: float) -> str:
    """Keyframes of a row, in percent: it stands out from ``start`` to ``end``, and all rows do from ``rest`` on."""
    frames: dict[float, float] = {0.0: 1.0 if start == 0 else _FADED}
    if start > 0:
        frames |= {start - 0.5: _FADED, start + 0.5: 1.0}
    frames[end - 0.5] = 1.0
    if end < rest:
        frames |= {end + 0.5: _FADED, rest: _FADED}
    frames |= {rest + 2: 1.0, 99.0: 1.0, 100.0: 1.0 if start == 0 else _FADED}
    return " ".join(f"{at:.2f}% {{ opacity: {opacity:g}; }}" for at, opacity in sorted(frames.items()))
