"""Plain values of requests: which are numbers, how messages show them; needs no torch."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["LARGEST_SEED", "is_number", "is_whole", "shortly"]

LARGEST_SEED = 2**63 - 1


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, which ``True`` is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, which ``True`` is not."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that is too large for a float
        return False


def shortly(value: Any) -> str:
    """A value in a message."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of more digits than Python writes"
    return text if len(text) <= 80 else f"{text[:77]}..."
