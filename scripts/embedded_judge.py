"""Looks at a picture and says which scene it shows: the measure of the embedded model.

A plain pixel classifier: the ground is the colour of the border, what differs from it falls into
connected objects, an object has the nearest colour of the palette, and the shape whose ideal outline
overlaps it best. It is itself checked on drawn pictures (``tests/scripts/test_embedded_judge.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embedded_scenes import COLOURS, GROUNDS, DrawnShape, Relation, Scene
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

__all__ = ["Found", "Judgement", "judge", "look"]

_DIFFERS = 70.0
"""Distance in RGB from which on a pixel is not ground."""

_SMALLEST = 30
"""Pixels; fewer are not an object."""

_NEAR = 0.13
"""How far a centre may lie from where it should be, as a fraction of the side."""


@dataclass(frozen=True)
class Found:
    """One object in a picture.

    Attributes:
        colour: Nearest colour of the palette.
        shape: DrawnShape that overlaps best.
        x: Centre of its bounding box, as a fraction of the side.
        y: The same, downwards.
    """

    colour: str
    shape: DrawnShape
    x: float
    y: float


@dataclass(frozen=True)
class Judgement:
    """Which parts of a scene a picture gets right; an object missing or too many makes all but the ground wrong."""

    colour: bool
    shape: bool
    position: bool
    ground: bool

    @property
    def right(self) -> bool:
        """Whether everything is."""
        return self.colour and self.shape and self.position and self.ground


def look(picture: Image.Image) -> tuple[str, list[Found]]:
    """Find the ground and the objects of a picture."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    labels, _ = ndimage.label(np.linalg.norm(pixels - ground, axis=-1) > _DIFFERS)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[box] == number
        if mask.sum() < _SMALLEST:
            continue
        colour = np.median(pixels[box][mask], axis=0)
        rows, columns = box
        height, width = picture.height, picture.width
        found.append(
            Found(
                colour=_nearest(colour, COLOURS),
                shape=_best_shape(mask),
                x=(columns.start + columns.stop) / 2 / width,
                y=(rows.start + rows.stop) / 2 / height,
            )
        )
    return _nearest(ground, GROUNDS), found


def judge(picture: Image.Image, scene: Scene) -> Judgement:
    """Compare a picture with the scene it should show."""
    ground, found = look(picture)
    ground_right = ground == scene.ground
    if len(found) != len(scene.items):
        return Judgement(False, False, False, ground_right)
    if scene.relation in (Relation.LEFT_OF, Relation.RIGHT_OF):
        found.sort(key=lambda f: f.x, reverse=scene.relation is Relation.RIGHT_OF)
    elif scene.relation is not None:
        found.sort(key=lambda f: f.y, reverse=scene.relation is Relation.BELOW)
    pairs = list(zip(found, scene.items, strict=True))
    return Judgement(
        colour=all(f.colour == item.colour for f, item in pairs),
        shape=all(f.shape is item.shape for f, item in pairs),
        position=all(
            abs(f.x - x) <= _NEAR and abs(f.y - y) <= _NEAR for f, (x, y) in zip(found, scene.centres, strict=True)
        ),
        ground=ground_right,
    )


def _nearest(colour: NDArray[np.float64], palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(colour - np.asarray(palette[name]))))


def _best_shape(mask: NDArray[np.bool_]) -> DrawnShape:
    return max(DrawnShape, key=lambda shape: _overlap(mask, shape))


def _overlap(mask: NDArray[np.bool_], shape: DrawnShape) -> float:
    """Intersection over union with the shape drawn into the same bounding box."""
    height, width = mask.shape
    scale = 8
    image = Image.new("L", (width * scale, height * scale))
    canvas = ImageDraw.Draw(image)
    right, bottom = width * scale - 1, height * scale - 1
    if shape is DrawnShape.CIRCLE:
        canvas.ellipse((0, 0, right, bottom), fill=255)
    elif shape is DrawnShape.SQUARE:
        canvas.rectangle((0, 0, right, bottom), fill=255)
    else:
        canvas.polygon([(right / 2, 0), (right, bottom), (0, bottom)], fill=255)
    ideal = np.asarray(image.resize((width, height), Image.Resampling.BOX)) > 127
    return float((mask & ideal).sum() / (mask | ideal).sum())
