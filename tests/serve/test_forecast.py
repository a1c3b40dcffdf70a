"""Forecasts, without an engine."""

from __future__ import annotations

import random

import pytest

from tokenring_xdit.serve.forecast import Forecast, hang_limit
from tokenring_xdit.serve.jobs import InputPictures


def real(pixels: int) -> tuple[float, float]:
    """Seconds of a step, and of the rest, on a machine that we made up: constant, linear and quadratic parts."""
    tokens = pixels / 256
    return 0.02 + 2e-5 * tokens + 4e-9 * tokens**2, 0.1 + 1e-6 * pixels


def test_nothing_is_predicted_before_anything_was_served() -> None:
    forecast = Forecast()
    assert forecast.seconds(1024**2, 28) is None
    assert forecast.step_seconds(1024**2) is None
    assert hang_limit(forecast.longest_silence(1024**2), 1800) == 1800


def test_sizes_that_were_not_served_are_predicted_within_a_quarter_after_ten_requests() -> None:
    forecast, dice = Forecast(), random.Random(1)
    for side in (256, 384, 512, 768, 1024, 256, 512, 1024, 1536, 2048):
        step, rest = real(side**2)
        forecast.learn(side**2, step * dice.uniform(0.95, 1.05), rest)
    for side in (320, 448, 640, 896, 1280, 1792, 2304):
        step, rest = real(side**2)
        assert forecast.seconds(side**2, 28) == pytest.approx(28 * step + rest, rel=0.25), side


def test_one_slow_request_does_not_move_a_forecast() -> None:
    forecast = Forecast()
    for seconds in (1.0, 1.0, 50.0, 1.0):
        forecast.learn(512**2, seconds, 0.5)
    assert forecast.seconds(512**2, 10) == 10.5


def test_what_was_served_long_ago_is_forgotten() -> None:
    forecast = Forecast()
    for seconds in [9.0] * 20 + [1.0] * 9:
        forecast.learn(512**2, seconds, 0.0)
    assert forecast.step_seconds(512**2) == 1.0


def test_beyond_what_was_served_time_grows_at_least_with_the_pixels_and_never_shrinks() -> None:
    forecast = Forecast()
    forecast.learn(64**2, 1.0, 0.0)
    assert forecast.step_seconds(128**2) == 4.0
    assert forecast.step_seconds(32**2) == 1.0
    forecast.learn(128**2, 0.5, 0.0)  # noise
    assert forecast.step_seconds(256**2) == 2.0


def test_a_hang_is_known_after_a_minute_or_twenty_times_what_was_expected() -> None:
    assert hang_limit(0.5, 1800) == 60
    assert hang_limit(10, 1800) == 200
    assert hang_limit(1000, 1800) == 1800


def test_what_is_far_larger_than_anything_served_is_given_all_the_time_there_is() -> None:
    forecast = Forecast()
    forecast.learn(256**2, 10.0, 0.0)
    assert forecast.longest_silence(512**2) == 40.0
    assert forecast.longest_silence(513**2) is None


def test_requests_that_look_at_pictures_say_nothing_of_others() -> None:
    forecast, edits = Forecast(), InputPictures(16, 24)
    forecast.learn(256**2, 1.0, 2.0)
    assert forecast.seconds(256**2, 4, edits) is forecast.longest_silence(256**2, edits) is None
    forecast.learn(256**2, 50.0, 3.0, edits)
    assert forecast.longest_silence(256**2, edits) == 53.0
    assert (forecast.seconds(256**2, 4), forecast.seconds(256**2, 4, edits)) == (6.0, 203.0)
    assert forecast.step_seconds(256**2, InputPictures(1, 20)) is None


def test_a_size_that_is_not_known_teaches_and_is_told_nothing() -> None:
    forecast = Forecast()
    forecast.learn(0, 1.0, 1.0)
    assert forecast.seconds(64**2, 2) is None
    forecast.learn(64**2, 1.0, 1.0)
    assert forecast.seconds(0, 2) is None
