"""Reading YAML: every mistake at once, in words that somebody who writes YAML understands."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tokenring_xdit.config import Config, read_config
from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError


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


def test_a_chain_of_extended_files_has_an_end(tmp_path: Path) -> None:
    for number in range(1200):
        following = f"extends: {number + 1}.yaml" if number < 1199 else "name: a"
        (tmp_path / f"{number}.yaml").write_text(following)
    with pytest.raises(ConfigurationError, match=r"extends: more than 16 files, each of which extends the next$"):
        read_config(Tea, tmp_path / "0.yaml")
    assert read_config(Tea, tmp_path / "1185.yaml").name == "a"


@pytest.mark.parametrize("name", ["n" * 300, "a/" * 3000 + "b", '"\\0"', '"\\ud800"'])
def test_extending_what_no_file_can_be_called(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="extends: there is no file"):
        read(tmp_path, f"name: a\nextends: {name}")


def test_an_alias_is_a_copy_so_that_an_override_changes_one(tmp_path: Path) -> None:
    tea = read(tmp_path, "name: a\noptions: {one: &one {x: 1}, other: *one}", "options.one.x=2")
    assert tea.options == {"one": {"x": 2}, "other": {"x": 1}}


BOMB = "\n".join(
    ["a: &a [x]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise("abcdef")), "name: [*f]"]
)
"""9 in 9, six times."""


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("options: " + "{a: " * 40 + "1" + "}" * 40, (), "tea.yaml is nested too deeply: line 1"),
        ("name: a", ("options." + "a." * 40 + "b=1",), "it reaches into more than 32 mappings"),
        ("name: a", ("options." + "a." * 20 + "b={" + "c: {" * 20 + "}" * 21,), "options: is nested too deeply"),
        ("b: " + "&x [" + "[" * 19 + "]" * 20 + "\noptions: {c: " + "[" * 20 + "*x" + "]" * 20 + "}", (),
         "is nested too deeply: line 2"),
        ("name: a\noptions: &me {again: *me}", (), "options: contains itself, line 2"),
        ("name: a\noptions: {list: &me [*me, *me]}", (), "options: contains itself, line 2"),
        (BOMB, (), "tea.yaml is too large: line 6 begins more than 20000 values, aliases written out"),
        ("long: &long " + "x" * 100_000 + "\nname: [" + "*long, " * 10 + "*long]", (), "more than 1000000 characters"),
        ("minutes: [" + "x, " * 30_000 + "x]", (), "tea.yaml is too large: line 1 holds the last of 20000 values"),
        ("name: " + "x" * 1_000_000, (), "is too large: it has more than 1000000 bytes"),
        ("minutes: " + "1:" * 3000 + "1", (), "a number of more than 64 digits"),
        ("minutes: 0x" + "f" * 3000, (), "a number of more than 64 digits"),
        ("minutes: !!int ''", (), "'tag:yaml.org,2002:int': tags are not taken"),
        ("name: !!binary AAAA", (), "tags are not taken"),
        ("name: 2001-01-01 00:00:00 +99:99", (), "put it in quotes"),
        ('name: "\\e]0;title\\a"', (), "name: has a control (#x1b) character"),
        ("name: a", ("name=a\x9b31m",), "name: has a control (#x9b) character"),
        ("name: a\noptions: {a: [{\"\\a\": 1}]}", (), "options: has a control (#x07) character"),
    ],
)  # fmt: skip
def test_much_in_few_bytes_is_refused(tmp_path: Path, text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text, *overrides)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_line_ends_and_tabs_are_text(tmp_path: Path) -> None:
    assert read(tmp_path, "name: |\n  two\n  lines\there\n").name == "two\nlines\there\n"


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ('name: a\nminutes: "3\\n  warmth: a mistake that nobody made"', ()),
        ('name: a\nwarmth: "\\u202e\\u2028"', ()),
        ('name: a\n"\\n  warmth: made up": 1', ()),
        ('name: a\noptions: ["\\n  warmth: made up"]', ()),
        ("name: a", ("\n  warmth: made up",)),
        ("name: a", ("\x1b[31m=1",)),
        ("name: a", ("minutes=\x9b\n  warmth: made up",)),
        ('name: a\nextends: "\\n  warmth: made up"', ()),
        ('name: a\n"\\e[31m": 1\n"\\e[31m": 2', ()),
        ("name: a\n%\x85", ()),
        ("name: &a a\nminutes: *b\u202e", ()),
    ],
)
def test_a_value_cannot_speak_for_the_message(tmp_path: Path, text: str, overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text, *overrides)
    lines = str(caught.value).split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("  warmth: made up") or line.startswith("  warmth: a mistake") for line in lines)


def test_what_looks_at_a_config_cannot_speak_for_the_message_either(tmp_path: Path) -> None:
    path = tmp_path / "tea.yaml"
    path.write_text("name: a")

    def unreachable(tea: Tea) -> list[str]:
        raise ModelUnreachableError("no \x1b[31m\n  hub")

    def too_long(tea: Tea) -> list[str]:
        return [str(Path("n" * 300).stat())]

    def too_many_digits(tea: Tea) -> list[str]:
        return [str(int("9" * 5000))]

    with pytest.raises(ConfigurationError, match=r"has a mistake:\n  model: \\x1b\[31m\\n$"):
        read_config(Tea, path, inspect=lambda tea: ["model: \x1b[31m\n"])
    with pytest.raises(ModelUnreachableError, match=r"^no \\x1b\[31m\\n  hub$"):
        read_config(Tea, path, inspect=unreachable)
    with pytest.raises(ConfigurationError, match=r"nnn'?: File name too long$"):
        read_config(Tea, path, inspect=too_long)
    with pytest.raises(ConfigurationError, match="a value cannot be used: Exceeds the limit"):
        read_config(Tea, path, inspect=too_many_digits)


def test_many_mistakes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, "\n".join(f"unknown{number}: 1" for number in range(3000)))
    message = str(caught.value)
    assert "has 3001 mistakes:" in message
    assert message.count("Known: ") == 1
    assert message.count("unknown") >= 50
    assert "\n  and " in message
    assert len(message) < 4096


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
