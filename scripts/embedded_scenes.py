"""The little world that the embedded model knows: coloured shapes on coloured grounds.

A :class:`Scene` is one or two objects and a ground; it can be put into words (:meth:`Scene.caption`)
and drawn (:func:`draw`). The training script draws its whole data set from here, and the judge
(``embedded_judge.py``) is checked on the same drawings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from PIL import Image, ImageDraw

from tokenring_xdit.pipelines.embedded import IMAGE_SIZE

__all__ = [
    "COLOURS",
    "GROUNDS",
    "HELD_OUT_PAIRS",
    "DrawnShape",
    "Item",
    "Place",
    "Relation",
    "Scene",
    "draw",
    "random_scene",
    "vocabulary",
]

_OVERSAMPLING = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 38),
    "green": (30, 160, 60),
    "blue": (36, 76, 220),
    "yellow": (250, 212, 24),
    "purple": (132, 44, 168),
    "orange": (248, 136, 20),
}

GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (16, 16, 18),
    "grey": (150, 150, 154),
    "pink": (250, 196, 208),
}


class DrawnShape(Enum):
    """What is drawn; the value is the word used in captions."""

    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"


class Place(Enum):
    """Where a single object stands: words, then the centre as a fraction of the side."""

    CENTRE = ("in the centre", 0.5, 0.5)
    LEFT = ("on the left", 0.27, 0.5)
    RIGHT = ("on the right", 0.73, 0.5)
    TOP = ("at the top", 0.5, 0.27)
    BOTTOM = ("at the bottom", 0.5, 0.73)
    TOP_LEFT = ("at the top left", 0.27, 0.27)
    TOP_RIGHT = ("at the top right", 0.73, 0.27)
    BOTTOM_LEFT = ("at the bottom left", 0.27, 0.73)
    BOTTOM_RIGHT = ("at the bottom right", 0.73, 0.73)

    @property
    def words(self) -> str:
        """The phrase that says this place."""
        return self.value[0]

    @property
    def centre(self) -> tuple[float, float]:
        """Centre ``(x, y)`` in ``[0, 1]``."""
        return self.value[1], self.value[2]


class Relation(Enum):
    """How the first of two objects stands to the second."""

    LEFT_OF = ("left of", (0.26, 0.5), (0.74, 0.5))
    RIGHT_OF = ("right of", (0.74, 0.5), (0.26, 0.5))
    ABOVE = ("above", (0.5, 0.26), (0.5, 0.74))
    BELOW = ("below", (0.5, 0.74), (0.5, 0.26))

    @property
    def words(self) -> str:
        """The phrase that says this relation."""
        return self.value[0]

    @property
    def centres(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Centres of the first and the second object."""
        return self.value[1], self.value[2]


@dataclass(frozen=True)
class Item:
    """One coloured shape."""

    colour: str
    shape: DrawnShape

    @property
    def words(self) -> str:
        """``red circle``."""
        return f"{self.colour} {self.shape.value}"

    @property
    def phrase(self) -> str:
        """``a red circle`` (``an orange circle``)."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.words}"


HELD_OUT_PAIRS: frozenset[Item] = frozenset(
    {
        Item("green", DrawnShape.TRIANGLE),
        Item("purple", DrawnShape.SQUARE),
        Item("orange", DrawnShape.CIRCLE),
        Item("blue", DrawnShape.TRIANGLE),
    }
)
"""Colour and shape pairs that no training picture shows: they measure whether the model combines."""


@dataclass(frozen=True)
class Scene:
    """One or two objects on a ground.

    Attributes:
        items: One or two objects.
        place: Where a single object stands; ``None`` for two.
        relation: How the first object stands to the second; ``None`` for one.
        ground: Name of the ground colour.
    """

    items: tuple[Item, ...]
    place: Place | None = None
    relation: Relation | None = None
    ground: str = "white"

    @property
    def centres(self) -> tuple[tuple[float, float], ...]:
        """Nominal centre of each object as fractions of the side."""
        if self.relation is not None:
            return self.relation.centres
        assert self.place is not None
        return (self.place.centre,)

    @property
    def held_out(self) -> bool:
        """Whether a pair of colour and shape in it is kept out of training."""
        return any(item in HELD_OUT_PAIRS for item in self.items)

    def caption(self, rng: random.Random | None = None) -> str:
        """The scene in words.

        Args:
            rng: Chooses among wordings that mean the same (leaving a white ground or the centre
                unsaid, counting instead of naming twice); ``None`` says everything.
        """
        if len(self.items) == 1:
            assert self.place is not None
            text = self.items[0].phrase
            if rng is None or self.place is not Place.CENTRE or rng.random() < 0.5:
                text += f" {self.place.words}"
        else:
            assert self.relation is not None
            first, second = self.items
            if first == second and rng is not None and rng.random() < 0.7:
                row = self.relation in (Relation.LEFT_OF, Relation.RIGHT_OF)
                text = f"two {first.words}s {'side by side' if row else 'one above the other'}"
            else:
                text = f"{first.phrase} {self.relation.words} {second.phrase}"
        if rng is None or self.ground != "white" or rng.random() < 0.5:
            text += f" on a {self.ground} ground"
        return text


def random_scene(rng: random.Random, *, held_out: bool | None = None) -> Scene:
    """Draw a scene at random.

    Args:
        rng: Source of randomness.
        held_out: ``False`` never uses a held-out pair, ``True`` always uses one, ``None`` either.
    """
    every = [Item(colour, shape) for colour in COLOURS for shape in DrawnShape]
    seen = [item for item in every if item not in HELD_OUT_PAIRS]
    pool = {None: every, False: seen, True: sorted(HELD_OUT_PAIRS, key=lambda item: item.words)}
    first = rng.choice(pool[held_out])
    ground = rng.choice(["white", *GROUNDS])  # white twice as often: it is the unsaid default
    if rng.random() < 0.45:
        return Scene((first,), place=rng.choice(list(Place)), ground=ground)
    second = first if rng.random() < 0.25 else rng.choice(seen if held_out is False else every)
    items = (first, second) if rng.random() < 0.5 else (second, first)
    return Scene(items, relation=rng.choice(list(Relation)), ground=ground)


def draw(scene: Scene, rng: random.Random | None = None) -> Image.Image:
    """Draw a scene, antialiased, ``IMAGE_SIZE`` pixels square.

    Args:
        scene: What to draw.
        rng: Moves and scales each object a little; ``None`` draws at the nominal place and size.
    """
    side = IMAGE_SIZE * _OVERSAMPLING
    image = Image.new("RGB", (side, side), GROUNDS[scene.ground])
    canvas = ImageDraw.Draw(image)
    single = len(scene.items) == 1
    for item, (x, y) in zip(scene.items, scene.centres, strict=True):
        radius = 0.19 if single else 0.17
        dx, dy, scale = 0.0, 0.0, 1.0
        if rng is not None:
            dx, dy, scale = rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04), rng.uniform(0.9, 1.1)
        _draw_item(canvas, item, (x + dx) * side, (y + dy) * side, radius * scale * side)
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def _draw_item(canvas: ImageDraw.ImageDraw, item: Item, x: float, y: float, r: float) -> None:
    colour = COLOURS[item.colour]
    if item.shape is DrawnShape.CIRCLE:
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif item.shape is DrawnShape.SQUARE:
        half = 0.89 * r  # about the area of the circle
        canvas.rectangle((x - half, y - half, x + half, y + half), fill=colour)
    else:
        corners = [math.radians(angle) for angle in (-90, 30, 150)]
        size, lift = 1.25 * r, 0.25 * r
        canvas.polygon([(x + size * math.cos(a), y + lift + size * math.sin(a)) for a in corners], fill=colour)


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    words: set[str] = set()
    for text in _phrases():
        words.update(text.split())
    return sorted(words)


def _phrases() -> Iterator[str]:
    yield from ("a", "an", "two", "side by side", "one above the other", "ground", "on a")
    yield from COLOURS
    yield from GROUNDS
    for shape in DrawnShape:
        yield from (shape.value, f"{shape.value}s")
    for place in Place:
        yield place.words
    for relation in Relation:
        yield relation.words
