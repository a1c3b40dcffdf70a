"""Pictures on their way from the ranks that drew them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenring_xdit.plain import from_bytes, to_bytes

__all__ = ["Pixels", "packed", "unpack"]

Pixels = NDArray[np.float32]
"""``[H, W, 3]`` in ``[0, 1]``, before they are rounded to eight bits."""


def packed(pixels: Pixels) -> str:
    """Pixels as text, as answers of ranks are JSON in places."""
    return to_bytes(pixels.astype(np.float32)).decode()


def unpack(text: str) -> Pixels:
    """What :func:`packed` was given."""
    pixels: Pixels = from_bytes(text.encode())
    return pixels
