"""Blocks as people see them: the cell of an attention, and the label of what travels.

Either stands for a whole block, or a whole pair of blocks, and is filled as far as a piece goes: tokens from left to
right, heads from top to bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree as ET

from tokenring_xdit.schedule.drawing.chart import AttendAt, Move
from tokenring_xdit.schedule.drawing.shapes import Box, Point, Share, add, polygon, rectangle, write
from tokenring_xdit.schedule.drawing.style import class_of_rank, mono_width
from tokenring_xdit.schedule.plan import WHOLE, Attend, Block, Kind, Mask, Piece

__all__ = [
    "ALL",
    "attend_cell",
    "attend_text",
    "cell",
    "cell_size",
    "chip",
    "chip_width",
    "label",
    "name_of",
    "share",
]

ALL: Share = (Fraction(0), Fraction(1))
"""The whole of an axis."""

_SMALL, _LARGE = 11.0, 12.0
_PADDING = 5.0
_LEADING = 15.0
_HEIGHT = 16.0


def name_of(block: Block) -> str:
    """What a block is called, without saying which piece of it: ``KV[2]``."""
    return str(replace(block, tokens=WHOLE, heads=WHOLE))


def share(piece: Piece) -> Share:
    """Where a piece begins and ends."""
    return Fraction(piece.index, piece.count), Fraction(piece.index + 1, piece.count)


def chip_width(name: str) -> float:
    """How wide the label of a block is."""
    return mono_width(name, _SMALL) + 2 * _PADDING


def label(
    parent: ET.Element, name: str, kind: Kind, colour: str, centre: Point, parts: Sequence[tuple[Share, Share]]
) -> list[ET.Element]:
    """Append a label, filled in parts.

    Returns:
        The element of each part.
    """
    width = chip_width(name)
    box = Box(centre[0] - width / 2, centre[1] - _HEIGHT / 2, width, _HEIGHT)
    rectangle(parent, box, "frame")
    filled = [rectangle(parent, box.inside(across, down), colour) for across, down in parts]
    rectangle(parent, box, f"{kind.value} outline")
    write(parent, name, (centre[0], centre[1] + _SMALL * 0.35), _SMALL, "code middle")
    return filled


def chip(parent: ET.Element, moves: Sequence[Move], centre: Point) -> None:
    """Append the label of pieces of one block that go the same way in the same step."""
    block = moves[0].block
    colour = "keys" if block.kind is Kind.KV else class_of_rank(block.owner)
    parts = [(share(move.block.tokens), share(move.block.heads)) for move in moves]
    for move, part in zip(moves, label(parent, name_of(block), block.kind, colour, centre, parts), strict=True):
        part.attrib |= {
            "data-source": str(move.source),
            "data-destination": str(move.destination),
            "data-channel": move.channel.value,
            "data-block": str(move.block),
            "data-step": str(move.step),
        }
        add(part, "title").text = f"rank {move.source} sends {move.block} to rank {move.destination}"


def cell_size(name: str, width: float) -> tuple[float, float]:
    """The least width of a cell that is meant to be ``width`` wide, and its height."""
    lines = _lines(name, width)
    return max(mono_width(text, _LARGE) for text in lines) + 2 * _PADDING, _LEADING * len(lines) + 10


def attend_text(attend: Attend) -> str:
    """What a cell says."""
    return f"{name_of(attend.q)} × {name_of(attend.kv)}"  # noqa: RUF001


def cell(
    parent: ET.Element,
    box: Box,
    *,
    colour: str,
    name: str = "",
    across: Share = ALL,
    down: Share = ALL,
    half: bool = False,
) -> ET.Element:
    """Append a cell.

    Args:
        parent: Where to.
        box: Its place.
        colour: Class of its filling.
        name: What it says.
        across: What is filled, from left to right.
        down: What is filled, from top to bottom.
        half: Fill what is below the diagonal instead.

    Returns:
        The group of its elements.
    """
    group = add(parent, "g")
    rectangle(group, box, "frame")
    if half:
        corners = (box.x, box.y), (box.x, box.y + box.height), (box.x + box.width, box.y + box.height)
        polygon(group, corners, colour)
    else:
        rectangle(group, box.inside(across, down), colour)
    lines = _lines(name, box.width) if name else []
    x, middle = box.centre
    for number, text in enumerate(lines):
        y = middle + (number - (len(lines) - 1) / 2) * _LEADING + _LARGE * 0.35
        write(group, text, (x, y), _LARGE, "code middle")
    return group


def attend_cell(parent: ET.Element, there: AttendAt, box: Box) -> None:
    """Append the cell of an attention."""
    attend, causal = there.attend, there.attend.mask is Mask.CAUSAL
    across = _nested(share(attend.q.tokens), share(attend.kv.tokens))
    down = share(attend.partial(there.rank).heads)
    colour = class_of_rank(attend.q.owner)
    group = cell(parent, box, colour=colour, name=attend_text(attend), across=across, down=down, half=causal)
    group.attrib |= {
        "data-rank": str(there.rank),
        "data-q": str(attend.q),
        "data-kv": str(attend.kv),
        "data-mask": attend.mask.value,
        "data-step": str(there.step),
    }
    said = f"rank {there.rank} attends {attend}"
    add(group, "title").text = f"{said} ({attend.mask.value})" if causal else said


def _lines(name: str, width: float) -> list[str]:
    """One line where that fits, two otherwise."""
    if mono_width(name, _LARGE) + 2 * _PADDING <= width:
        return [name]
    return name.split(maxsplit=1)


def _nested(outer: Share, inner: Share) -> Share:
    """A part of a part."""
    start, end = (outer[0] + (outer[1] - outer[0]) * point for point in inner)
    return start, end
