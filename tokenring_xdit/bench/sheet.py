"""The contact sheet of a comparison: pictures, differences and figures side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokenring_xdit.bench.pictures import Pixels

__all__ = ["Panel", "contact_sheet"]

_SIDE = 384
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
        pixels: What it drew; ``None`` where it was refused.
        lines: Figures, or the reason of the refusal.
    """

    title: str
    pixels: Pixels | None
    lines: tuple[str, ...]


def contact_sheet(heading: str, panels: list[Panel], footnote: str) -> Image.Image:
    """Lay panels out in a row: the picture above, its difference to the first one below.

    Args:
        heading: The prompt.
        panels: The reference first, which is never refused.
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
    expected = panels[0].pixels
    drawn = [None if panel is panels[0] else panel.pixels for panel in panels]
    differences = [None if expected is None or pixels is None else np.abs(pixels - expected) for pixels in drawn]
    factor = _amplification([difference for difference in differences if difference is not None])
    for number, (panel, difference) in enumerate(zip(panels, differences, strict=True)):
        left = _MARGIN + number * (_SIDE + _MARGIN)
        canvas.text((left, 54), panel.title, fill=_INK, font=ImageFont.load_default(_TEXT + 2))
        if panel.pixels is not None:
            sheet.paste(_enlarge(_picture(panel.pixels)), (left, 80))
        if difference is not None:
            same = not difference.any()
            label = f"difference to {panels[0].title}, " + ("none" if same else f"x {factor:,} (black: identical)")
            canvas.text((left, lower - 22), label, fill=_FAINT, font=ImageFont.load_default(_TEXT - 2))
            shown = _enlarge(_picture(np.minimum(difference * factor, 1.0)))
            sheet.paste(shown, (left, lower))
            if same:
                centre = (left + shown.width // 2, lower + shown.height // 2)
                font = ImageFont.load_default(_TITLE)
                canvas.text(centre, "identical", fill=_PAPER, font=font, anchor="mm")
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


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _amplification(differences: list[Pixels]) -> int:
    """The power of ten that makes the largest difference visible and leaves it in range."""
    largest = max((float(difference.max()) for difference in differences), default=0.0)
    return min(_MOST_AMPLIFIED, 10 ** max(0, math.floor(-math.log10(largest)))) if largest > 0 else _MOST_AMPLIFIED


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
