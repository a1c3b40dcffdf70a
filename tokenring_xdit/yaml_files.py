"""YAML as users write it: read in time and memory that grow with the file, or refused in one sentence.

YAML can say much in few bytes: aliases of aliases stand for gigabytes, brackets for recursion without end, digits with
colons for numbers of a million bits. Nothing that is described here needs any of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import named, one_line, shown

__all__ = ["MOST_LEVELS", "parse_yaml", "read_yaml"]

MOST_LEVELS = 32
"""Values inside values; a pipeline's options need four or five."""

_MOST_DIGITS = 64
"""Of a number; of more YAML makes what takes minutes to write out."""


def read_yaml(path: Path, what: str, *, values: int, characters: int) -> tuple[Any, list[str]]:
    """Read a file.

    Args:
        path: The file.
        what: What it is called in messages.
        values: Most values in it, each as often as aliases repeat it.
        characters: Most characters in it, likewise.

    Returns:
        What it says, and a mistake for each key that stands twice in a mapping.

    Raises:
        ConfigurationError: It cannot be read, is no YAML, or is too much of it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(characters + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        if isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError):
            reason = "no file has such a name"
        raise ConfigurationError(f"{what} cannot be read: {reason}") from error
    if len(data) > characters:
        raise ConfigurationError(f"{what} is too large: it has more than {characters} bytes")
    return parse_yaml(text, what, values=values, characters=characters)


def parse_yaml(text: str, what: str, *, values: int, characters: int) -> tuple[Any, list[str]]:
    """As :func:`read_yaml`, of a text."""
    loader = None
    try:
        loader = _Loader(text, values, characters)
        return loader.get_single_data(), loader.repeated
    except _TooMuchError as error:
        raise ConfigurationError(f"{what} {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigurationError(f"{what} is not YAML: {where}{one_line(str(error.problem))}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(
            f"{what} is not YAML: line {line} has a control character, #x{error.character:02x}"
        ) from error
    except RecursionError as error:
        raise ConfigurationError(f"{what} is nested too deeply") from error
    except (ValueError, ArithmeticError) as error:  # a date that does not exist, for one
        raise ConfigurationError(
            f"{what} has a value that cannot be read: {one_line(str(error))}; put it in quotes"
        ) from error


class _TooMuchError(Exception):
    """A document says more than anybody writes."""


class _Extent:
    """How large a node is with every alias in it written out."""

    __slots__ = ("characters", "levels", "values")

    def __init__(self, characters: int) -> None:
        self.values, self.characters, self.levels = 1, characters, 1

    def add(self, inner: _Extent) -> None:
        """Count a node inside."""
        self.values += inner.values
        self.characters += inner.characters
        self.levels = max(self.levels, inner.levels + 1)


class _Loader(yaml.SafeLoader):
    """PyYAML's, within limits; it also notes equal keys, of which PyYAML by itself lets the last one win."""

    def __init__(self, text: str, values: int, characters: int) -> None:
        super().__init__(text)
        self.repeated: list[str] = []
        self._values, self._characters = values, characters
        self._extents: dict[int, _Extent] = {}  # by node, all of which live as long as the document
        self._level, self._count, self._key = 0, 0, ""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As in the base class, but refuse what is too much as soon as it is."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        where = f"line {event.start_mark.line + 1}"
        if self._level == 1:
            self._key = index.value if isinstance(index, yaml.ScalarNode) else ""
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._extents:
                inside = f"{named(self._key)}: " if self._key else ""
                raise _TooMuchError(f"has a value that nobody can write out: {inside}contains itself, {where}")
            return node
        if event.tag is not None:
            raise yaml.composer.ComposerError(
                None,
                None,
                f"{shown(event.tag)}: tags are not taken; write the value alone, text in quotes",
                event.start_mark,
            )
        self._level += 1
        self._count += 1
        if self._count > self._values:
            raise _TooMuchError(f"is too large: {where} holds the last of {self._values} values that may be in it")
        if self._level > MOST_LEVELS:
            raise _TooMuchError(f"is nested too deeply: {where} is inside more than {MOST_LEVELS} values")
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is not None:
            self._measure(node, where)
        return node

    def _measure(self, node: yaml.Node, where: str) -> None:
        extent = _Extent(len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        inside: list[Any] = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        for part in inside:
            extent.add(self._extents[id(part)])
        if extent.levels > MOST_LEVELS:
            raise _TooMuchError(f"is nested too deeply: {where} begins more than {MOST_LEVELS} values in each other")
        for count, most, kind in (
            (extent.values, self._values, "values"),
            (extent.characters, self._characters, "characters"),
        ):
            if count > most:
                raise _TooMuchError(f"is too large: {where} begins more than {most} {kind}, aliases written out")
        self._extents[id(node)] = extent

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """As in the base class; numbers have an end."""
        number = node.tag in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
        if number and len(node.value) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"a number of more than {_MOST_DIGITS} digits; put it in quotes if it is text",
                node.start_mark,
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As in the base class, but note keys that stand there twice."""
        seen: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in seen:
                self.repeated.append(f"{named(key.value)}: stands on line {seen[key.value]} and again on line {line}")
            seen.setdefault(key.value, line)
        return super().construct_mapping(node, deep)
