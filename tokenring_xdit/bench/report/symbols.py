"""Markers as paths, two units wide, and the entries of a legend: a marker on a piece of its line."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["DASHES", "SYMBOLS", "key_of"]

DASHES = {"solid": [1, 0], "dash": [6, 4], "dot": [2, 3], "dashdot": [7, 3, 2, 3]}
"""Dashes and gaps of a line, in pixels."""

_RIM = 0.55
"""Of an open marker, the share of its width that is empty."""


def _corners(angles: Iterable[float], radii: Iterable[float]) -> list[tuple[float, float]]:
    return [
        (radius * math.cos(angle), -radius * math.sin(angle))
        for angle, radius in zip(map(math.radians, angles), radii, strict=True)
    ]


def _polygon(corners: int, first: float, radius: float = 1.0) -> list[tuple[float, float]]:
    return _corners((first + 360 * n / corners for n in range(corners)), [radius] * corners)


def _cross(turned: float) -> list[tuple[float, float]]:
    """Four arms, each with two corners at its end and one where it joins the next."""
    angles = (90 * arm + offset + turned for arm in range(4) for offset in (-19, 19, 45))
    return _corners(angles, [1.06, 1.06, 0.49] * 4)


_SHAPES = {
    "circle": _polygon(24, 0),
    "square": _polygon(4, 45, 1.25),
    "diamond": _polygon(4, 90, 1.15),
    "triangle-up": _polygon(3, 90, 1.2),
    "triangle-left": _polygon(3, 180, 1.2),
    "triangle-down": _polygon(3, 270, 1.2),
    "triangle-right": _polygon(3, 0, 1.2),
    "cross": _cross(0),
    "x": _cross(45),
    "star": _corners((90 + 36 * n for n in range(10)), [1.25, 0.5] * 5),
    "pentagon": _polygon(5, 90, 1.1),
    "hexagon": _polygon(6, 0, 1.1),
}


def _path(corners: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{round(x, 2) + 0:g},{round(y, 2) + 0:g}" for x, y in corners) + "Z"


def _open(corners: list[tuple[float, float]]) -> str:
    """An outline, whose inner edge runs the other way round: what is between the edges is filled."""
    return _path(corners) + _path([(_RIM * x, _RIM * y) for x, y in reversed(corners)])


SYMBOLS = {
    **{name: _path(corners) for name, corners in _SHAPES.items()},
    **{f"{name}-open": _open(corners) for name, corners in _SHAPES.items()},
}
"""Markers by their names in :mod:`.palette`."""


_PIECES = {
    "solid": ((1.2, 4),),
    "dash": ((1.2, 2.3), (2.9, 4)),
    "dot": ((1.2, 1.6), (2, 2.4), (2.8, 3.2), (3.6, 4)),
    "dashdot": ((1.2, 2.3), (2.75, 3.15), (3.6, 4)),
}
"""Where in a legend the line is to be seen on the right of its marker."""


def key_of(symbol: str, dash: str) -> str:
    """What stands in a legend for a line: its marker, and a piece of it on either side."""
    pieces = (
        _path([(side * start, -0.25), (side * end, -0.25), (side * end, 0.25), (side * start, 0.25)])
        for side in (-1, 1)
        for start, end in _PIECES[dash]
    )
    return SYMBOLS[symbol] + "".join(pieces)
