"""Reading YAML: every mistake at once, in words that somebody who writes YAML understands."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tokenring_xdit.config import Config, read_config
from tokenring_xdit.errors import ConfigurationError


class Tea(Config):
    """What these tests read."""

    name: str = Field(description="what it is called")
    minutes: int = Field(3, ge=1, le=9, description="how long")
    warmth: float = Field(90.0, description="degrees")
    options: dict[str, Any] = Field({}, description="anything")


def read(tmp_path: Path, text: str, *overrides: str) -> Tea:
    path = tmp_path / "tea.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(Tea, path, overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "messages"),
    [
        ("", (), ["tea.yaml is empty"]),
        ("- a\n- b", (), ["a list of 2 where keys with values belong"]),
        ("just text", (), ["the text 'just text' where keys with values belong"]),
        ("name: [", (), ["not YAML: line 1"]),
        ("name: a\n\tminutes: 3", (), ["not YAML: line 2"]),
        ("name: a: b", (), ["not YAML: line 1, column 8"]),
        ("---\nname: a\n---\nname: b", (), ["not YAML: line 3"]),
        ("name: &a a\nminutes: *b", (), ["not YAML: line 2"]),
        ("name: !!python/object:os.system a", (), ["not YAML: line 1"]),
        ("name: a\nname: b", (), ["name: stands on line 1 and again on line 2"]),
        ("minutes: 3", (), ["name: is missing; what it is called"]),
        ("name:", (), ["name: nothing where text belongs"]),
        ("name: 2024-02-30", (), ["put it in quotes"]),
        (
            "name: no",
            (),
            ["name: false (which YAML also reads from yes, no, on and off) where text belongs; put it in"],
        ),
        ("name: 7", (), ["name: 7 where text belongs; put it in quotes"]),
        ("name: a\nminutes: '3'", (), ["minutes: the text '3' where a whole number belongs"]),
        ("name: a\nminutes: 2.5", (), ["minutes: 2.5 where a whole number belongs"]),
        ("name: a\nminutes: true", (), ["minutes: true (", "where a whole number belongs"]),
        ("name: a\nminutes: 0", (), ["minutes: 0 is not allowed; it has to be at least 1"]),
        ("name: a\nminutes: 10", (), ["minutes: 10 is not allowed; it has to be at most 9"]),
        ("name: a\nwarmth: hot", (), ["warmth: the text 'hot' where a number belongs"]),
        ("name: a\noptions: 3", (), ["options: 3 where keys with values belong"]),
        ("name: a\nminuets: 3", (), ["minuets: there is no such key. Known:", "Did you mean 'minutes'?"]),
        ("name: a\n? [b]\n: c", (), ["not YAML: line 2"]),
        ("name: a\n3: 3", (), ["3: a key has to be text"]),
        ("name: a", ("minutes",), ["'minutes' on the command line: it has to be key=value"]),
        ("name: a", ("minutes=long",), ["minutes: the text 'long' where a whole number belongs"]),
        ("name: a", ("extends=b.yaml",), ["'extends=b.yaml' on the command line"]),
        ("name: a", ("minuets=3",), ["minuets: there is no such key"]),
        ("name: a\nextends: b.yaml", (), ["extends: there is no file", "b.yaml"]),
        ("name: a\nextends: tea.yaml", (), ["tea.yaml' extends itself in the end"]),
        ("name: a\nextends: 3", (), ["extends: 3 where the name of a file belongs"]),
        (
            "nam: a\nminutes: 0\nminutes: 12\nwarmth: hot",
            ("options=1", "x"),
            ["7 mistakes:", "again on line 3", "'x' on", "name: is missing", "minutes: 12", "warmth:", "nam: there"],
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, overrides: tuple[str, ...], messages: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text, *overrides)
    for message in messages:
        assert message in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read: No such file"):
        read_config(Tea, tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read_config(Tea, tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: \xe4".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_config(Tea, tmp_path / "latin.yaml")


def test_overrides_replace_values_and_reach_into_mappings(tmp_path: Path) -> None:
    tea = read(tmp_path, "name: a\noptions: {milk: 1}", "minutes=5", "options.milk=[2]", "options.sugar.lumps=2")
    assert tea.minutes == 5
    assert tea.options == {"milk": [2], "sugar": {"lumps": 2}}


@pytest.mark.parametrize("text", ["yes", "7", "a: b, {c}", "it's", "'quoted'", "key=value"])
def test_text_on_the_command_line_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "name: a", f"name={text}").name == text


def test_a_config_starts_from_another(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "pot.yaml").write_text("name: pot\nminutes: 4")
    (tmp_path / "base" / "green.yaml").write_text("extends: pot.yaml\nname: green\nwarmth: 70")
    tea = read(tmp_path, "extends: base/green.yaml\nwarmth: 75")
    assert (tea.name, tea.minutes, tea.warmth) == ("green", 4, 75)


def test_mistakes_of_the_config_underneath_say_where(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: a\nname: b")
    with pytest.raises(ConfigurationError, match=r"again on line 2 \(in .*base\.yaml\)"):
        read(tmp_path, "extends: base.yaml")


@given(
    st.dictionaries(
        st.sampled_from(["name", "minutes", "warmth", "options", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_any_values_are_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "tea.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    sound = set(values) <= {"name", "minutes", "warmth", "options"} and isinstance(values.get("name"), str)
    tea = None
    with contextlib.suppress(ConfigurationError):
        tea = read_config(Tea, path)
    assert tea is None or (sound and tea.name == values["name"] and 1 <= tea.minutes <= 9)
