"""The contact sheet of a comparison."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tokenring_xdit.bench.sheet import Panel, contact_sheet

_SIDE = 384
_DIFFERENCES_TOP = 80 + _SIDE + 30


def sheet_of(largest: float) -> Image.Image:
    expected = np.zeros((64, 64, 3), np.float32)
    drawn = expected.copy()
    drawn[:32, :, 2] = largest
    panels = [Panel("one rank", expected, ("first",)), Panel("TokenRing", drawn, ("second",))]
    return contact_sheet("a prompt", panels, "a note")


@pytest.mark.parametrize(
    ("largest", "blue"),
    [
        (3e-7, 0.3),  # fp32: a million times
        (7e-3, 0.7),  # bf16: a hundred times
        (0.6, 0.6),  # another picture: as it is
        (1.0, 1.0),
        (1e-9, 0.01),  # ten million times and no more
        (0.0, 0.0),
    ],
)
def test_the_largest_difference_is_visible_and_in_range(largest: float, blue: float) -> None:
    sheet = sheet_of(largest)
    left = 2 * 20 + _SIDE
    upper, lower = (sheet.getpixel((left + 100, _DIFFERENCES_TOP + y)) for y in (50, 250))
    assert upper == (0, 0, pytest.approx(255 * blue, abs=1.5))
    assert lower == (0, 0, 0)


def test_pictures_that_are_identical_say_so() -> None:
    left, top = 2 * 20 + _SIDE, _DIFFERENCES_TOP
    box = (left, top, left + _SIDE, top + _SIDE)
    assert sheet_of(0.0).crop(box).getextrema() == ((0, 255),) * 3  # white letters on black
    assert sheet_of(1e-9).crop(box).getextrema()[0] == (0, 0)
