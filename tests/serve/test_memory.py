"""Forecasts of memory, without an engine."""

from __future__ import annotations

import random

import pytest

from tokenring_xdit.pipelines.messages import MemoryUse
from tokenring_xdit.serve.jobs import InputPictures
from tokenring_xdit.serve.memory import MemoryForecast

GIB, MIB = 2**30, 2**20

MODEL, LIMIT = 10 * GIB, 57 * GIB


def real(pixels: int) -> int:
    """What a request needs beside the model, on a machine that we made up."""
    return 300 * MIB + 4000 * pixels


def use(pixels: int, share: float = 1.0) -> MemoryUse:
    return MemoryUse(MODEL, MODEL + int(share * real(pixels)), LIMIT)


def learned(*sides: int, limit: int | None = None) -> MemoryForecast:
    forecast = MemoryForecast(limit)
    for side in sides:
        forecast.learn(side**2, [use(side**2, 0.9), use(side**2)])
    return forecast


def test_nothing_is_refused_before_anything_is_known() -> None:
    forecast = MemoryForecast()
    assert forecast.needed(4096**2) is forecast.free() is None
    assert not forecast.too_much(4096**2)
    forecast.learn(1024**2, [])  # a system that does not tell
    forecast.learn(0, [use(1)])
    assert forecast.needed(1024**2) is None


def test_sizes_that_were_not_served_are_predicted_within_a_quarter_after_ten_requests() -> None:
    forecast, dice = MemoryForecast(), random.Random(1)
    for side in (256, 384, 512, 768, 1024, 256, 512, 1024, 1536, 2048):
        forecast.learn(side**2, [use(side**2, dice.uniform(0.95, 1.05))])
    for side in (128, 320, 448, 640, 896, 1280, 1792, 2304, 3072):
        assert forecast.needed(side**2) == pytest.approx(real(side**2), rel=0.25), side


def test_a_size_fits_where_a_twentieth_more_than_it_needs_is_free() -> None:
    forecast = learned(512, 1024)
    needed = forecast.needed(2048**2)
    assert needed is not None
    for spare, fits in ((1.06, True), (1.04, False)):
        forecast.learn(512**2, [MemoryUse(MODEL, MODEL + real(512**2), MODEL + round(spare * needed))])
        assert forecast.fits(2048**2) is fits
        assert not forecast.too_much(2048**2)
    assert not MemoryForecast().fits(1)  # of which nothing is known


def test_what_grows_with_the_square_is_seen_from_four_sizes_on() -> None:
    forecast = MemoryForecast()
    for side in (256, 512, 768, 1024):
        forecast.learn(side**2, [MemoryUse(0, side**4, LIMIT)])
    assert forecast.needed(2048**2) == pytest.approx(2048**4, rel=0.01)


def test_the_most_that_was_needed_counts_and_is_forgotten() -> None:
    forecast = MemoryForecast()
    forecast.learn(512**2, [use(512**2, 3.0)])
    for _ in range(8):
        forecast.learn(512**2, [use(512**2)])
    assert forecast.needed(512**2) == 3.0 * real(512**2)
    forecast.learn(512**2, [use(512**2)])
    assert forecast.needed(512**2) == real(512**2)


def test_what_does_not_fit_is_known_near_what_was_served() -> None:
    forecast = learned(1024, 2048)
    assert forecast.free() == LIMIT - MODEL
    assert real(3072**2) < LIMIT - MODEL < real(4096**2)
    assert not forecast.too_much(3072**2)
    assert forecast.too_much(4096**2)
    assert learned(1024, 2048, limit=20 * GIB).too_much(3072**2)


def test_far_beyond_what_was_served_only_half_of_a_guess_counts() -> None:
    forecast = learned(256, 512)
    assert forecast.needed(4096**2) == pytest.approx(real(4096**2), rel=0.01)
    assert not forecast.too_much(4096**2)
    assert forecast.too_much(8192**2)


def test_one_size_refuses_nothing_larger_and_itself_only_where_it_would_not_fit_again() -> None:
    assert not learned(256).too_much(8192**2)
    assert learned(2048, limit=MODEL + GIB).too_much(2048**2)


def test_what_was_heard_of_this_machine_long_ago_refuses_nothing() -> None:
    now = [0.0]
    for limit, refused in ((None, False), (20 * GIB, True)):
        forecast = MemoryForecast(limit, clock=lambda: now[0])
        for side in (1024, 1280):
            forecast.learn(side**2, [MemoryUse(MODEL, MODEL + real(side**2), 20 * GIB)])
        assert forecast.too_much(2048**2)
        now[0] += 3600
        assert forecast.too_much(2048**2) is refused


@pytest.mark.parametrize("limit", [None, 20 * GIB])
def test_a_size_that_needed_more_than_there_is_is_tried_again_later(limit: int | None) -> None:
    now = [0.0]
    forecast = MemoryForecast(limit, clock=lambda: now[0])
    for side in (256, 512):
        forecast.learn(side**2, [use(side**2)])
    forecast.learn(1024**2, [MemoryUse(MODEL, 2 * LIMIT, LIMIT)])
    for _ in range(3):
        assert forecast.too_much(1024**2) and forecast.too_much(1020**2)
        now[0] += 250
        forecast.learn(256**2, [use(256**2)])  # others are served all the time
    assert not forecast.too_much(1024**2) and not forecast.too_much(1020**2)
    assert forecast.needed(1024**2) == pytest.approx(real(1024**2), rel=0.01)
    forecast.learn(1024**2, [MemoryUse(MODEL, 2 * LIMIT, LIMIT)])
    assert forecast.too_much(1024**2)


def test_requests_that_look_at_pictures_say_nothing_of_others() -> None:
    forecast, edits = learned(256, 512, limit=20 * GIB), InputPictures(16, 24)
    assert forecast.needed(256**2, edits) is None and not forecast.too_much(8192**2, edits)
    for side in (256, 512):
        forecast.learn(side**2, [MemoryUse(MODEL, LIMIT, LIMIT)], edits)
    assert forecast.too_much(256**2, edits) and not forecast.too_much(256**2)
    assert not forecast.too_much(256**2, InputPictures(1, 20))


def test_real_over_predicted_is_told() -> None:
    told: list[float] = []
    forecast = MemoryForecast(None, told.append)
    for peak in (2, 3):
        forecast.learn(64**2, [MemoryUse(MODEL, MODEL + peak * GIB, LIMIT)])
    assert told == [pytest.approx((MODEL + 3 * GIB) / (MODEL + 2 * GIB))]
