"""The few shapes that pictures are made of, as SVG elements."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from xml.etree import ElementTree as ET

from tokenring_xdit.schedule.plan import Kind

__all__ = ["Box", "Point", "Share", "add", "arrow", "line", "polygon", "rectangle", "write"]

Point = tuple[float, float]

Share = tuple[Fraction, Fraction]
"""Where a part of a length begins and ends, as shares of it."""

_TIP_LENGTH, _TIP_HALF = 7.0, 3.5
"""Of the tip of an arrow whose line is thin."""


@dataclass(frozen=True)
class Box:
    """A rectangle, in user units."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> Point:
        """Its middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    def inside(self, across: Share, down: Share) -> Box:
        """A part of it, from left to right and from top to bottom."""
        left, right = (float(share) * self.width for share in across)
        top, bottom = (float(share) * self.height for share in down)
        return Box(self.x + left, self.y + top, right - left, bottom - top)


def add(parent: ET.Element, tag: str, /, **attributes: str | float) -> ET.Element:
    """Append an element; underscores in names of attributes become hyphens, except for one at the end (``class_``)."""
    named = {name.rstrip("_").replace("_", "-"): _value(value) for name, value in attributes.items()}
    return ET.SubElement(parent, tag, named)


def write(parent: ET.Element, text: str, at: Point, size: float, class_: str) -> ET.Element:
    """Append a line of text; ``at`` is where its base line begins, or its middle for the class ``middle``."""
    element = add(parent, "text", x=at[0], y=at[1], font_size=size, class_=class_)
    element.text = text
    return element


def rectangle(parent: ET.Element, box: Box, class_: str, **attributes: str | float) -> ET.Element:
    """Append a rectangle."""
    where = {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
    return add(parent, "rect", **where, class_=class_, **attributes)


def polygon(parent: ET.Element, corners: Iterable[Point], class_: str) -> ET.Element:
    """Append a polygon."""
    return add(parent, "polygon", points=" ".join(map(_pair, corners)), class_=class_)


def line(parent: ET.Element, start: Point, end: Point, class_: str) -> ET.Element:
    """Append a line."""
    return add(parent, "line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def arrow(parent: ET.Element, kind: Kind, start: Point, end: Point, width: float, via: Point | None = None) -> None:
    """Append an arrow in the colour of what it carries.

    Args:
        parent: Where to.
        kind: What it carries.
        start: Where it begins.
        end: Where its tip is.
        width: Width of its line.
        via: Where the curve bends to; a straight line without.
    """
    came_from = start if via is None else via
    length = math.dist(came_from, end)
    along = (end[0] - came_from[0]) / length, (end[1] - came_from[1]) / length
    half = max(_TIP_HALF, width)
    tip = min(_TIP_LENGTH * half / _TIP_HALF, 0.5 * math.dist(start, end))
    neck = end[0] - along[0] * tip, end[1] - along[1] * tip
    sides = [(neck[0] - side * along[1], neck[1] + side * along[0]) for side in (half, -half)]
    curve = f"L{_pair(neck)}" if via is None else f"Q{_pair(via)} {_pair(neck)}"
    add(parent, "path", d=f"M{_pair(start)} {curve}", class_=f"{kind.value} link", stroke_width=width)
    add(parent, "path", d=f"M{_pair(end)} L{_pair(sides[0])} {_pair(sides[1])}z", class_=f"{kind.value} tip")


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 1) + 0.0:.7g}"


def _pair(point: Point) -> str:
    return f"{_value(point[0])},{_value(point[1])}"
