from __future__ import annotations

import random

import numpy as np
from embedded_scenes import (
    HELD_OUT_PAIRS,
    DrawnShape,
    Item,
    Place,
    Relation,
    Scene,
    draw,
    random_scene,
    vocabulary,
)

from tokenring_xdit.pipelines.embedded import IMAGE_SIZE, words


def test_captions_say_what_the_scene_is() -> None:
    one = Scene((Item("orange", DrawnShape.CIRCLE),), place=Place.TOP_LEFT, ground="grey")
    assert one.caption() == "an orange circle at the top left on a grey ground"
    two = Scene((Item("red", DrawnShape.CIRCLE), Item("blue", DrawnShape.SQUARE)), relation=Relation.LEFT_OF)
    assert two.caption() == "a red circle left of a blue square on a white ground"


def test_every_word_is_in_the_vocabulary() -> None:
    rng = random.Random(0)
    words = set(vocabulary())
    for _ in range(2000):
        assert set(random_scene(rng).caption(rng).split()) <= words


def test_held_out_pairs_are_kept_out_and_asked_for() -> None:
    rng = random.Random(0)
    assert not any(random_scene(rng, held_out=False).held_out for _ in range(2000))
    scenes = [random_scene(rng, held_out=True) for _ in range(500)]
    assert all(scene.held_out for scene in scenes)
    assert {item for scene in scenes for item in scene.items} >= HELD_OUT_PAIRS


def test_drawings_are_reproducible_and_jitter_moves_them() -> None:
    scene = Scene((Item("red", DrawnShape.CIRCLE),), place=Place.LEFT)
    assert draw(scene).size == (IMAGE_SIZE, IMAGE_SIZE)
    assert np.array_equal(draw(scene, random.Random(3)), draw(scene, random.Random(3)))
    assert not np.array_equal(draw(scene), draw(scene, random.Random(3)))


def test_the_model_knows_the_words_of_its_world() -> None:
    assert words() == vocabulary()
