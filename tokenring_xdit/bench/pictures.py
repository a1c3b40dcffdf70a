"""Pictures on their way from the ranks that drew them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pixels"]

Pixels = NDArray[np.float32]
"""``[H, W, 3]`` in ``[0, 1]``, before they are rounded to eight bits."""
