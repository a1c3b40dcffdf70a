"""What users wrote, as messages quote it: on one line, cut to a length, and nothing in it that a terminal obeys."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["escaped", "listed", "named", "names_of", "one_line", "shown"]

_LONGEST_VALUE = 100
_LONGEST_LINE = 700
_MOST_OF_ALL = 3500
"""Characters of a list of mistakes; what comes after them is counted."""

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxtuple, _BRIEF.maxdict, _BRIEF.maxset = 3, 4, 4, 4, 4
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 40


def escaped(text: str, keep: str = "") -> str:
    r"""A text with what is not printable written as Python does: ``\x1b``, ``\n``, ``\u202e``.

    Args:
        text: Any text.
        keep: Characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def _cut(text: str, most: int) -> str:
    """A text with its middle left out where it is long: what is wrong stands at its start or at its end."""
    if len(text) <= most:
        return text
    gap, tail = " ... ", most // 3
    return f"{text[: most - tail - len(gap)]}{gap}{text[-tail:]}"


def one_line(text: str, most: int = _LONGEST_LINE) -> str:
    """A text on one line, escaped and cut."""
    return _cut(escaped(_cut(text, 4 * most)), most)


def named(key: object) -> str:
    """A key as messages name it."""
    return one_line(str(key), _LONGEST_VALUE)


def shown(value: Any) -> str:
    """A value as messages quote it: texts in quotes, of lists and mappings the first few members."""
    if isinstance(value, str):
        return f"'{one_line(value, _LONGEST_VALUE)}'"
    if isinstance(value, (dict, list, tuple, set)):
        return one_line(_BRIEF.repr(value), 2 * _LONGEST_VALUE)
    try:
        return one_line(str(value), _LONGEST_VALUE)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a number of more than {_LONGEST_VALUE} digits"


def listed(heading: str, mistakes: Sequence[str]) -> str:
    """A heading and mistakes, a line each; of very many the first ones, and how many more there are."""
    lines, room = [heading], _MOST_OF_ALL
    for done, line in enumerate(map(one_line, mistakes)):
        room -= len(line)
        if done and room < 0:
            lines.append(f"and {len(mistakes) - done} more")
            break
        lines.append(line)
    return "\n  ".join(lines)


def names_of(keys: Iterable[Any]) -> str:
    """Some keys after each other, the first few of many."""
    some = [named(key) for key, _ in zip(keys, range(9), strict=False)]
    return ", ".join([*some[:8], *(["..."] if len(some) > 8 else [])])
