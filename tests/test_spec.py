"""One way to read ``NAME:OPTION=VALUE``, and to say what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.spec import Grammar, Option, Value, Whole, Word, YesNo, unknown, written

KNOWN: dict[str, dict[str, Option]] = {
    "plain": {},
    "drive": {"speed": Whole(90, least=5), "lights": YesNo(), "to": Word()},
}
FORM = Grammar("manner", KNOWN, ScheduleError)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("plain", {}),
        ("drive", {}),
        ("drive:speed=5", {"speed": 5}),
        ("drive:speed=090,lights=yes,to=sea", {"speed": 90, "lights": True, "to": "sea"}),
        ("drive:to=a=b,lights=0", {"to": "a=b", "lights": False}),
    ],
)
def test_what_is_read(text: str, options: dict[str, Value]) -> None:
    assert FORM.read(text) == (text.partition(":")[0], options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drife", "there is no manner 'drife'. Known: drive, plain. Did you mean 'drive'?"),
        ("", "there is no manner ''. Known: drive, plain."),
        ("dri\nve", r"there is no manner 'dri\nve'. Known: drive, plain. Did you mean 'drive'?"),
        ("drive:sped=5", "manner 'drive' has no option 'sped'. Known: lights, speed, to. Did you mean 'speed'?"),
        ("drive:", "manner 'drive' has no option ''. Known: lights, speed, to."),
        ("drive:speed=5,", "manner 'drive' has no option ''. Known: lights, speed, to."),
        ("plain:speed=5", "manner 'plain' has no option 'speed'. It has none."),
        ("drive:speed", "manner 'drive:speed': write each option once, as speed=VALUE"),
        ("drive:to=a,to=a", "manner 'drive:to=a,to=a': write each option once, as to=VALUE"),
        ("drive:speed=4", "speed=4 of manner 'drive' has to be a whole number from 5 to 90"),
        ("drive:speed=91", "speed=91 of manner 'drive' has to be a whole number from 5 to 90"),
        ("drive:speed=-5", "speed=-5 of manner 'drive' has to be a whole number from 5 to 90"),
        ("drive:speed=5.5", "speed=5.5 of manner 'drive' has to be a whole number from 5 to 90"),
        ("drive:speed=\u0665", "speed=\u0665 of manner 'drive' has to be a whole number from 5 to 90"),
        ("drive:lights=maybe", "lights=maybe of manner 'drive' has to be true or false"),
        ("drive:to=", "to= of manner 'drive' has to be a name"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ScheduleError) as refusal:
        FORM.read(text)
    assert str(refusal.value) == message


def test_a_number_of_thousands_of_digits_is_refused_in_a_short_line() -> None:
    with pytest.raises(ScheduleError) as refusal:
        FORM.read(f"drive:speed={'9' * 9000}")
    assert len(str(refusal.value)) < 300


def test_the_error_is_that_of_the_form() -> None:
    with pytest.raises(ConfigurationError):
        Grammar("model", {}, ConfigurationError).read("x")


@given(
    st.fixed_dictionaries(
        {}, optional={"speed": st.integers(5, 90), "lights": st.booleans(), "to": st.text("abc", min_size=1)}
    )
)
def test_what_is_written_reads_the_same(options: dict[str, Value]) -> None:
    assert FORM.read(written("drive", options.items())) == ("drive", options)


def test_a_part_of_a_word_may_be_what_is_compared() -> None:
    assert unknown("network", "mash:4", ["mesh"], like="mash").startswith("there is no network 'mash:4'. Known: mesh.")
