"""The body of a picture: a column for each rank, a row for each step, and in it what is attended and what travels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from tokenring_xdit.schedule.drawing.blocks import (
    attend_cell,
    attend_text,
    cell_size,
    chip,
    chip_width,
    name_of,
)
from tokenring_xdit.schedule.drawing.chart import AttendAt, Chart, Move
from tokenring_xdit.schedule.drawing.links import thickness, units
from tokenring_xdit.schedule.drawing.shapes import Box, add, arrow, line, rectangle, write
from tokenring_xdit.schedule.drawing.style import class_of_rank, sans_width
from tokenring_xdit.schedule.plan import Channel

__all__ = ["LEAST_WIDTH", "Columns", "columns", "draw_sheet"]

LEAST_WIDTH = 700.0
"""Of a picture with a legend."""

_WIDEST = 150.0
_STEP_X, _MARGIN, _GAP, _APART = 12.0, 14.0, 12.0, 8.0
"""Left of the steps' names, right of the columns, between two groups of ranks, and between two cells."""

_HEAD, _LANE, _ABOVE = 24.0, 20.0, 7.0
"""Height of the ranks' names and of a line of arrows, and the space above cells."""

_LABEL = 12.0
_ORDER = (Channel.Q, Channel.KV, Channel.NODES, Channel.O)


@dataclass(frozen=True)
class Columns:
    """Where the ranks stand.

    Attributes:
        centres: Middle of each rank's column.
        pitch: Distance of two neighbours in a group.
        width: Width of the whole picture.
        groups: Ranks that stand together.
    """

    centres: tuple[float, ...]
    pitch: float
    width: float
    groups: tuple[range, ...]

    def box(self, rank: int, y: float, height: float) -> Box:
        """The place of a rank in a row."""
        width = self.pitch - _APART
        return Box(self.centres[rank] - width / 2, y, width, height)

    def way(self, source: int, destination: int) -> float:
        """How far a label goes from beside its source to beside its destination, to the right."""
        start, end = self.centres[source], self.centres[destination]
        beside = self.centres[source + (1 if end > start else -1)]
        before = self.centres[destination - (1 if end > start else -1)]
        return round((end + before - start - beside) / 2, 1)


def columns(chart: Chart, groups: tuple[range, ...], least: float) -> Columns:
    """Divide the width among the ranks.

    Args:
        chart: The steps.
        groups: Ranks that stand together.
        least: Width of the picture; it becomes wider where labels need more.
    """
    ranks = sum(map(len, groups))
    gutter = 1.5 * _STEP_X + sans_width(max(_step_names(chart), key=len), _LABEL)
    around = gutter + _GAP * (len(groups) - 1) + _MARGIN
    pitch = min(_WIDEST, (least - around) / ranks)
    labels = [chip_width(name_of(move.block)) + 24 for move in chart.moves]
    cells = [cell_size(attend_text(attend.attend), pitch - _APART)[0] + _APART for attend in chart.attends]
    pitch = max([pitch, *labels, *cells])
    width = math.ceil(max(least, around + ranks * pitch))
    left = gutter + (width - around - ranks * pitch) / 2
    centres = tuple(
        left + (rank + 0.5) * pitch + number * _GAP for number, group in enumerate(groups) for rank in group
    )
    return Columns(centres, pitch, width, groups)


def _step_names(chart: Chart) -> list[str]:
    last = max(attend.step for attend in chart.attends)
    return [f"step {step}" if step <= last else "finish" for step in range(chart.steps)]


@dataclass(frozen=True)
class _Bundle:
    """Pieces of one block that go the same way in the same step: one arrow."""

    moves: tuple[Move, ...]

    @property
    def source(self) -> int:
        return self.moves[0].source

    @property
    def destination(self) -> int:
        return self.moves[0].destination

    @property
    def distance(self) -> int:
        return abs(self.destination - self.source)

    def beside(self, other: _Bundle) -> bool:
        """Whether both go the same way and do not overlap, so that one line can hold them."""
        mine, its = sorted((self.source, self.destination)), sorted((other.source, other.destination))
        same_way = (self.source < self.destination) == (other.source < other.destination)
        return same_way and (mine[1] <= its[0] or its[1] <= mine[0])


def _lanes(moves: Iterable[Move]) -> list[list[_Bundle]]:
    """Lines of arrows that do not overlap: by channel, short ones first, to the right before to the left."""
    bundles: dict[tuple[object, ...], list[Move]] = defaultdict(list)
    for move in moves:
        bundles[move.channel, move.source, move.destination, name_of(move.block)].append(move)
    found: list[list[_Bundle]] = []
    for channel in _ORDER:
        lanes: list[list[_Bundle]] = []
        own = [_Bundle(tuple(group)) for group in bundles.values() if group[0].channel is channel]
        for bundle in sorted(own, key=lambda b: (b.distance, b.destination < b.source, b.source)):
            free = next((lane for lane in lanes if all(bundle.beside(other) for other in lane)), None)
            if free is None:
                lanes.append([bundle])
            else:
                free.append(bundle)
        found += lanes
    return found


def draw_sheet(parent: ET.Element, chart: Chart, place: Columns, top: float) -> float:
    """Append the table of steps.

    Returns:
        Where it ends.
    """
    attends: dict[int, list[AttendAt]] = defaultdict(list)
    moves: dict[int, list[Move]] = defaultdict(list)
    for attend in chart.attends:
        attends[attend.step].append(attend)
    for move in chart.moves:
        moves[move.step].append(move)

    bands, lifelines, rows = (add(parent, "g") for _ in range(3))
    for rank in range(len(place.centres)):
        head = place.box(rank, top, _HEAD)
        rectangle(rows, head, class_of_rank(rank), rx=4)
        write(rows, f"rank {rank}", (head.centre[0], head.centre[1] + 4.2), _LABEL, "middle strong")
    y = top + _HEAD + 6
    for step, name in enumerate(_step_names(chart)):
        height = _row(rows, attends[step], _lanes(moves[step]), place, y)
        if step % 2 == 0:
            rectangle(bands, Box(6, y, place.width - 12, height), "band")
        write(rows, name, (_STEP_X, y + _ABOVE + 15), _LABEL, "muted")
        y += height
    for x in place.centres:
        line(lifelines, (x, top + _HEAD), (x, y), "lifeline")
    if len(place.groups) > 1:
        for group in place.groups:
            left, right = place.box(group[0], top, 0), place.box(group[-1], top, 0)
            frame = Box(left.x - 5, top - 5, right.x + right.width - left.x + 10, y - top + 8)
            rectangle(lifelines, frame, "group", rx=8)
    return y


def _row(
    parent: ET.Element, attends: Sequence[AttendAt], lanes: Sequence[Sequence[_Bundle]], place: Columns, y: float
) -> float:
    """Append one step; how high it is."""
    end = y + _ABOVE
    if attends:
        height = max(cell_size(attend_text(attend.attend), place.pitch - _APART)[1] for attend in attends)
        for attend in attends:
            attend_cell(parent, attend, place.box(attend.rank, end, height))
        end += height + _ABOVE
    for lane in lanes:
        for bundle in lane:
            _travel(parent, bundle, place, end + _LANE / 2)
        end += _LANE
    return end - y + (4 if lanes else 0)


def _travel(parent: ET.Element, bundle: _Bundle, place: Columns, y: float) -> None:
    start, end = place.centres[bundle.source], place.centres[bundle.destination]
    way = 1 if end > start else -1
    kind = bundle.moves[0].block.kind
    route = add(parent, "g")
    add(route, "circle", cx=start, cy=y, r=3, class_=f"{kind.value} tip")
    size = sum(units(move.block) for move in bundle.moves)
    arrow(route, kind, (start, y), (end - way * 1.5, y), thickness(size))
    next_column = place.centres[bundle.source + way]
    chip(route, bundle.moves, ((start + next_column) / 2, y))
