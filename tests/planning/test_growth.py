"""How attention grows with sizes, for forecasts."""

from __future__ import annotations

import pytest

from tokenring_xdit.model_shapes import ModelShape
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.planning.growth import AttentionGrowth, TextAttentionGrowth

SHAPE = ModelShape(24, 128, calls=57, text=512)


def growth(gpus: bool = False, shape: ModelShape | None = SHAPE, **dims: object) -> AttentionGrowth:
    return AttentionGrowth(ParallelDims(**dims), shape, gpus=gpus, element_bytes=4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dims",
    [
        {},
        {"tokenring": 4},
        {"ulysses": 2, "tokenring": 2},
        {"ulysses": 4},
        {"tokenring": 4, "schedule": "auto"},
        {"ulysses": 5, "tokenring": 2},  # which does not divide the heads
        {"tokenring": 64},  # which are not simulated
    ],
)
@pytest.mark.parametrize("gpus", [False, True])
def test_large_pictures_take_as_much_more_as_their_pairs_of_tokens(dims: dict[str, object], gpus: bool) -> None:
    attention = growth(gpus, **dims)
    pairs = ((8192**2 / 256 + 512) / (4096**2 / 256 + 512)) ** 2
    assert attention(8192**2) / attention(4096**2) == pytest.approx(pairs, rel=0.1)
    assert attention(64**2) > 0


def test_small_pictures_take_what_messages_and_text_take() -> None:
    attention = growth(tokenring=4)
    assert attention(128**2) < 1.2 * attention(64**2)
    assert growth(shape=None)(1024**2) > 10 * growth(shape=None)(512**2)


def test_frames_are_tokens() -> None:
    video = growth(shape=ModelShape(12, 128, calls=30, text=0, frames=4))
    assert video(4 * 512**2 * 4) == growth(shape=ModelShape(12, 128, calls=30, text=0))(4 * 512**2)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_prompts_take_their_square_and_answers_what_is_before_them(count: int) -> None:
    text = TextAttentionGrowth(count, gpus=False, element_bytes=4)
    assert text.prefill(2e5) / text.prefill(1e5) == pytest.approx(4, rel=0.1)
    assert text.decode(2e8) / text.decode(1e8) == pytest.approx(2, rel=0.1)
