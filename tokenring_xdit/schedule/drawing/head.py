"""The head of a picture: the name, what each link carries in all, and what the signs mean."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from xml.etree import ElementTree as ET

from tokenring_xdit.schedule.describe import heading, traffic
from tokenring_xdit.schedule.drawing.blocks import ALL, cell, label, share
from tokenring_xdit.schedule.drawing.chart import Chart
from tokenring_xdit.schedule.drawing.links import UNITS, busiest, loads, thickness
from tokenring_xdit.schedule.drawing.shapes import Box, Point, add, arrow, rectangle, write
from tokenring_xdit.schedule.drawing.style import class_of_rank, mono_width, sans_width
from tokenring_xdit.schedule.plan import WHOLE, Kind, Mask, Piece, Schedule

__all__ = ["draw_head", "draw_title", "title_width"]

_LEFT = 16.0
_NAME, _TEXT, _SMALL = 20.0, 12.0, 11.0
_PANEL = Box(_LEFT, 78.0, 232.0, 200.0)
_NODE = 11.0
_THICK, _THICKEST, _FEW = 1.5, 6.0, 16
"""Thickness of a link for each block of queries, the most for any, and how many links may be that thick."""

_SIGN_X, _MEANING_X, _SIGN_STEP = 262.0, 374.0, 26.0


def draw_head(parent: ET.Element, schedule: Schedule, chart: Chart, groups: tuple[range, ...], width: float) -> float:
    """Append the head.

    Returns:
        Where it ends.
    """
    draw_title(parent, schedule, width)
    end = _legend(parent, schedule, chart, grouped=len(groups) > 1)
    if chart.moves:
        most = f"busiest link, one way: {float(busiest(chart.moves)):.3g}"
        rule = "a block of queries is 1, keys with values 2, a partial output 1"
        write(parent, f"{most} ({rule})", (_LEFT, 69), _TEXT, "muted")
        end = max(end, _overview(parent, chart, groups))
    return end + 10


def title_width(schedule: Schedule) -> float:
    """How wide a picture has to be for its title."""
    return 2 * _LEFT + sans_width(_subtitle(schedule), _TEXT)


def draw_title(parent: ET.Element, schedule: Schedule, width: float) -> float:
    """Append the schedule's name and what each rank sends.

    Returns:
        Where the title ends.
    """
    size = min(_NAME, _NAME * (width - 2 * _LEFT) / mono_width(schedule.name, _NAME))
    write(parent, schedule.name, (_LEFT, 31), size, "code strong")
    write(parent, _subtitle(schedule), (_LEFT, 52), _TEXT, "muted")
    return 70.0


def _subtitle(schedule: Schedule) -> str:
    return f"{heading(schedule)}; {traffic(schedule)}"


def _overview(parent: ET.Element, chart: Chart, groups: tuple[range, ...]) -> float:
    """Append all ranks, on a circle or in their groups, and everything that goes between them; where it ends."""
    drawing = add(parent, "g")
    spots = _in_columns(drawing, groups) if len(groups) > 1 else _on_a_circle(len(groups[0]))
    carried = loads(chart.moves)
    scale = min(_THICK, _THICKEST / float(max(carried.values()))) * min(1.0, math.sqrt(_FEW / len(carried)))
    beside: dict[tuple[int, int], int] = defaultdict(int)
    for (source, destination, kind), load in carried.items():
        number = beside[source, destination]
        beside[source, destination] += 1
        _link(drawing, kind, spots[source], spots[destination], max(1.0, scale * float(load)), number)
    for rank, (x, y) in enumerate(spots):
        add(drawing, "circle", cx=x, cy=y, r=_NODE, class_=f"{class_of_rank(rank)} node")
        write(drawing, str(rank), (x, y + 4), _TEXT, "code middle")
    end = _PANEL.y + _PANEL.height + 18
    write(drawing, "what each link carries, in all", (_PANEL.centre[0], end - 4), _SMALL, "muted middle")
    return end


def _on_a_circle(ranks: int) -> list[Point]:
    """Clockwise from the top."""
    x, y = _PANEL.centre
    radius = min(_PANEL.width, _PANEL.height) / 2 - 26
    angles = [2 * math.pi * (rank / ranks - 1 / 4) for rank in range(ranks)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _in_columns(parent: ET.Element, groups: tuple[range, ...]) -> list[Point]:
    """A column for each group, staggered so that a link to the next but one passes beside the rank between."""
    spots: list[Point] = []
    most = max(map(len, groups))
    across = _PANEL.width / len(groups)
    down = min(64.0, (_PANEL.height - 4 * _NODE) / (most - 1))
    aside = max(0.0, min(18.0, across / 2 - 2 * _NODE)) if most > 2 else 0.0
    half = min(across / 2 - 1, 24 + aside)
    for number, group in enumerate(groups):
        x, top = _PANEL.x + (number + 0.5) * across, _PANEL.centre[1] - down * (len(group) - 1) / 2
        spots += [(x + (aside if place % 2 else -aside), top + down * place) for place in range(len(group))]
        frame = Box(x - half, top - 2 * _NODE, 2 * half, down * (len(group) - 1) + 4 * _NODE)
        rectangle(parent, frame, "group", rx=8)
    return spots


def _link(parent: ET.Element, kind: Kind, start: Point, end: Point, width: float, number: int) -> None:
    """One direction of a link, bent to its left so that both directions are seen, and kinds beside each other."""
    length = math.dist(start, end)
    left = (end[1] - start[1]) / length, -(end[0] - start[0]) / length
    bend = 8 + 0.12 * length + 12 * number
    via = (start[0] + end[0]) / 2 + bend * left[0], (start[1] + end[1]) / 2 + bend * left[1]
    arrow(parent, kind, _towards(start, via, _NODE), _towards(end, via, _NODE + 1.5), width, via)


def _towards(point: Point, other: Point, distance: float) -> Point:
    way = distance / math.dist(point, other)
    return point[0] + (other[0] - point[0]) * way, point[1] + (other[1] - point[1]) * way


_Draw = Callable[[ET.Element, Box], object]


def _legend(parent: ET.Element, schedule: Schedule, chart: Chart, *, grouped: bool) -> float:
    """Append what the signs of this picture mean; where it ends."""
    legend = add(parent, "g")
    y = _PANEL.y + 12
    write(legend, "Each step: what is attended; below, what travels meanwhile.", (_SIGN_X, y), _TEXT, "")
    y += 14
    for draw, meaning in _signs(schedule, chart, grouped=grouped):
        draw(legend, Box(_SIGN_X, y, _MEANING_X - _SIGN_X - 10, 18))
        write(legend, meaning, (_MEANING_X, y + 13.2), _TEXT, "")
        y += _SIGN_STEP
    return y


def _signs(schedule: Schedule, chart: Chart, *, grouped: bool) -> Iterator[tuple[_Draw, str]]:
    """Those that occur in this picture."""
    sample = partial(cell, colour=class_of_rank(0))
    yield partial(sample, name="Q[i] × KV[j]"), "attended here; colour: whose queries"  # noqa: RUF001
    if schedule.mask is Mask.CAUSAL:
        yield partial(sample, half=True), "each query to no later key"
    for kind, name, meaning in (
        (Kind.Q, "Q[i]", "queries of rank i"),
        (Kind.KV, "KV[j]", "keys and values of rank j"),
        (Kind.O, "O[i,r]", "partial output of Q[i], returned by rank r"),
    ):
        if any(move.block.kind is kind for move in chart.moves):
            yield partial(_sample_arrow, kind=kind, name=name), meaning
    blocks = schedule.blocks()
    if any(block.tokens != WHOLE for block in blocks):
        yield partial(sample, across=share(Piece(0, 2))), "filled: which of the tokens"
    if any(block.heads != WHOLE for block in blocks):
        yield partial(sample, down=share(Piece(0, 2))), "filled: which of the heads"
    if grouped:
        yield partial(rectangle, class_="group", rx=6), "ranks of a node, or of a column of the grid"


def _sample_arrow(parent: ET.Element, box: Box, *, kind: Kind, name: str) -> None:
    x, y = box.centre
    start, end = (box.x + 3, y), (box.x + box.width, y)
    add(parent, "circle", cx=start[0], cy=y, r=3, class_=f"{kind.value} tip")
    arrow(parent, kind, start, end, thickness(UNITS[kind]))
    label(parent, name, kind, "keys" if kind is Kind.KV else class_of_rank(0), (x - 4, y), [(ALL, ALL)])
