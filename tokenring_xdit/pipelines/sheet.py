"""The contact sheet of a comparison: pictures, differences and figures side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Panel", "contact_sheet"]

_SIDE = 256
_MARGIN = 20
_TITLE = 26
_TEXT = 15
_INK, _FAINT, _PAPER = (28, 28, 32), (110, 110, 118), (255, 255, 255)
_MOST_AMPLIFIED = 10_000_000
"""Differences of rounding in fp32 are visible then."""


@dataclass(frozen=True)
class Panel:
    """One strategy on the sheet.

    Attributes:
        title: Its name.
        picture: What it drew; ``None`` where it was refused.
        difference: Absolute difference to the reference, ``[H, W, 3]`` of pixels in ``[0, 1]``.
        lines: Figures, or the reason of the refusal.
    """

    title: str
    picture: Image.Image | None
    difference: NDArray[np.float32] | None
    lines: tuple[str, ...]


def contact_sheet(heading: str, panels: list[Panel], footnote: str) -> Image.Image:
    """Lay panels out in a row: the picture above, its difference to the first one below.

    Args:
        heading: The prompt.
        panels: The reference first.
        footnote: What the figures are, and are not.
    """
    width = _MARGIN + len(panels) * (_SIDE + _MARGIN)
    text_top = 74 + 2 * (_SIDE + 30)
    lines = max(len(_wrap(panel.lines)) for panel in panels)
    foot = _wrap((footnote,), width - 2 * _MARGIN)
    height = text_top + (lines + len(foot) + 2) * (_TEXT + 6) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((_MARGIN, 14), heading, fill=_INK, font=ImageFont.load_default(_TITLE))
    lower = 80 + _SIDE + 30
    factor = _amplification([panel.difference for panel in panels if panel.difference is not None])
    for number, panel in enumerate(panels):
        left = _MARGIN + number * (_SIDE + _MARGIN)
        canvas.text((left, 54), panel.title, fill=_INK, font=ImageFont.load_default(_TEXT + 2))
        if panel.picture is not None:
            sheet.paste(_enlarge(panel.picture), (left, 80))
        if panel.difference is not None:
            label = f"difference to {panels[0].title}, x {factor:,}"
            canvas.text((left, lower - 22), label, fill=_FAINT, font=ImageFont.load_default(_TEXT - 2))
            sheet.paste(_enlarge(_amplify(panel.difference, factor)), (left, lower))
        for row, line in enumerate(_wrap(panel.lines)):
            canvas.text((left, text_top + 14 + row * (_TEXT + 6)), line, fill=_INK, font=ImageFont.load_default(_TEXT))
    for row, line in enumerate(foot):
        y = text_top + 14 + (lines + 1 + row) * (_TEXT + 6)
        canvas.text((_MARGIN, y), line, fill=_FAINT, font=ImageFont.load_default(_TEXT - 2))
    return sheet


def _enlarge(picture: Image.Image) -> Image.Image:
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _amplification(differences: list[NDArray[np.float32]]) -> int:
    """The power of ten that makes the largest difference visible and leaves it in range."""
    largest = max((float(difference.max()) for difference in differences), default=0.0)
    return min(_MOST_AMPLIFIED, 10 ** max(0, math.floor(-math.log10(largest)))) if largest > 0 else _MOST_AMPLIFIED


def _amplify(difference: NDArray[np.float32], factor: int) -> Image.Image:
    return Image.fromarray(np.clip(difference * factor * 255, 0, 255).astype(np.uint8))


def _wrap(lines: tuple[str, ...], width: int = _SIDE) -> list[str]:
    """Break lines at spaces so that they fit a panel."""
    font = ImageFont.load_default(_TEXT)
    wrapped: list[str] = []
    for line in lines:
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > width:
                wrapped.append(current)
                longer = word
            current = longer
        wrapped.append(current)
    return wrapped
