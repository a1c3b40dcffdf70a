"""The judge of the embedded model, checked on drawn pictures."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from embedded_judge import judge, look
from embedded_scenes import (
    COLOURS,
    GROUNDS,
    DrawnShape,
    Item,
    Place,
    Relation,
    Scene,
    draw,
    random_scene,
)
from PIL import Image, ImageFilter


def test_drawn_scenes_are_judged_right() -> None:
    rng = random.Random(5)
    wrong = []
    for _ in range(1000):
        scene = random_scene(rng)
        if not judge(draw(scene, rng), scene).right:
            wrong.append(scene.caption())
    assert len(wrong) <= 2, wrong


def test_blurred_and_noisy_drawings_are_still_judged_right() -> None:
    rng, noise = random.Random(6), np.random.default_rng(6)
    right = 0
    for _ in range(300):
        scene = random_scene(rng)
        blurred = np.asarray(draw(scene, rng).filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float64)
        noisy = np.clip(blurred + noise.normal(0, 6, blurred.shape), 0, 255).astype(np.uint8)
        right += judge(Image.fromarray(noisy), scene).right
    assert right >= 285


def test_every_kind_of_mistake_is_seen() -> None:
    scene = Scene(
        (Item("red", DrawnShape.CIRCLE), Item("blue", DrawnShape.SQUARE)), relation=Relation.LEFT_OF, ground="white"
    )
    assert judge(draw(scene), scene).right
    recoloured = replace(scene, items=(Item("purple", DrawnShape.CIRCLE), scene.items[1]))
    verdict = judge(draw(recoloured), scene)
    assert (verdict.colour, verdict.shape, verdict.position, verdict.ground) == (False, True, True, True)
    reshaped = replace(scene, items=(Item("red", DrawnShape.TRIANGLE), scene.items[1]))
    assert judge(draw(reshaped), scene).shape is False
    moved = replace(scene, relation=Relation.ABOVE)
    assert judge(draw(moved), scene).position is False
    swapped = replace(scene, relation=Relation.RIGHT_OF)
    assert not judge(draw(swapped), scene).right
    other_ground = replace(scene, ground="pink")
    assert judge(draw(other_ground), scene).ground is False
    alone = Scene((scene.items[0],), place=Place.LEFT)
    assert not judge(draw(alone), scene).right


def test_every_colour_shape_and_ground_is_told_apart() -> None:
    for colour in COLOURS:
        for shape in DrawnShape:
            for ground in GROUNDS:
                scene = Scene((Item(colour, shape),), place=Place.CENTRE, ground=ground)
                seen_ground, (found,) = look(draw(scene))
                assert (seen_ground, found.colour, found.shape) == (ground, colour, shape)


def test_noise_is_no_scene() -> None:
    rng = random.Random(1)
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert not any(judge(Image.fromarray(noise), random_scene(rng)).right for _ in range(50))
