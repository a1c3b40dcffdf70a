"""Pictures that pipelines start from."""

from __future__ import annotations

from typing import Any

import torch


def two_colours(height: int, width: int) -> Any:
    """A PIL picture of two colours that run into each other, with a bright rectangle in it."""
    from PIL import Image

    down = torch.linspace(0, 255, height)[:, None].expand(height, width)
    across = torch.linspace(0, 255, width)[None].expand(height, width)
    picture = torch.stack([down, across, 255 - down], dim=-1).to(torch.uint8)
    picture[height // 4 : height // 2, width // 3 : 2 * width // 3] = 240
    return Image.fromarray(picture.numpy())
