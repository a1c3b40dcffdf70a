"""Pictures on their way from the ranks that drew them."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pixels", "packed", "unpack"]

Pixels = NDArray[np.float32]
"""``[H, W, 3]`` in ``[0, 1]``, before they are rounded to eight bits."""


def packed(pixels: Pixels) -> str:
    """Pixels as text: a NumPy file in base 64, as answers of ranks are JSON in places."""
    file = io.BytesIO()
    np.save(file, pixels.astype(np.float32), allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def unpack(text: str) -> Pixels:
    """What :func:`packed` was given."""
    pixels: Pixels = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return pixels
