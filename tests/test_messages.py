"""How messages quote what users wrote."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.messages import escaped, listed, named, names_of, one_line, shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a b", "'a b'"),
        ("\x1b[31m\n", "'\\x1b[31m\\n'"),
        ("\u202e", "'\\u202e'"),
        ("\ud800", "'\\ud800'"),
        (3, "3"),
        (2.5, "2.5"),
        ([1, "\n"], "[1, '\\n']"),
        (list(range(9)), "[0, 1, 2, 3, ...]"),
        ({"a": {"b": {"c": {"d": 1}}}}, "{'a': {'b': {'c': {...}}}}"),
    ],
)
def test_values(value: Any, expected: str) -> None:
    assert shown(value) == expected


def test_a_number_that_python_does_not_write() -> None:
    assert shown(10**5000) == "a number of more than 100 digits"


def test_what_is_long_keeps_both_ends() -> None:
    text = one_line("start" + "x" * 10**6 + "end", 60)
    assert text.startswith("startx")
    assert text.endswith("xend")
    assert " ... " in text
    assert len(text) <= 60
    assert one_line("\x1b" * 1000, 60).startswith("\\x1b\\x1b")


def test_characters_that_may_stay() -> None:
    assert escaped("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_lists() -> None:
    assert listed("two:", ["a", "b\n  c"]) == "two:\n  a\n  b\\n  c"
    many = listed("many:", ["x" * 300] * 100)
    assert len(many) < 4000
    assert many.endswith("  and 89 more")
    assert names_of(range(9)) == "0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert names_of("abc") == "a, b, c"


@given(st.text() | st.integers() | st.lists(st.text()) | st.dictionaries(st.text(), st.floats()))
def test_whatever_it_is_it_is_one_short_printable_line(value: Any) -> None:
    for text in (shown(value), named(value)):
        assert text.isprintable()
        assert len(text) <= 220
