"""``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``: one way to read it, and one way to say what is wrong with it.

Schedules, ``auto``, strategies of sweeps and random models are all written so. Short forms of networks
(``mesh:4:100mbit``, ``hgx-h100*4@ib-ndr``) have a shape of their own; they share the numbers and the words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokenring_xdit.errors import TokenRingError, nearest
from tokenring_xdit.messages import named, shown

__all__ = ["Grammar", "Option", "Value", "Whole", "Word", "YesNo", "unknown", "written"]

Value = int | bool | str

_DIGITS = 9
"""Of numbers that are read: Python refuses to read those of thousands."""


@dataclass(frozen=True)
class Whole:
    """An option that is a whole number.

    Attributes:
        most: The largest.
        least: The smallest, 0 or more.
    """

    most: int
    least: int = 1

    def read(self, text: str) -> int | None:
        """The number, or ``None`` where the text is none of this range."""
        if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
            return None
        return int(text) if self.least <= int(text) <= self.most else None

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


@dataclass(frozen=True)
class YesNo:
    """An option that is switched on or off."""

    def read(self, text: str) -> bool | None:
        """Whether it is on, or ``None`` where the text says neither."""
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Word:
    """An option that is a text, which whoever asked for it checks."""

    def read(self, text: str) -> str | None:
        """The text; ``None`` where there is none."""
        return text or None

    def __str__(self) -> str:
        return "a name"


Option = Whole | YesNo | Word


@dataclass(frozen=True)
class Grammar:
    """What may be written.

    Attributes:
        what: What the names are names of, as messages call it, such as ``schedule``.
        names: For each name its options, and what each of them takes.
        error: What is raised where something else was written.
    """

    what: str
    names: Mapping[str, Mapping[str, Option]]
    error: type[TokenRingError]

    def read(self, text: str) -> tuple[str, dict[str, Value]]:
        """The name, and the options that were written, in their order.

        Raises:
            TokenRingError: As :attr:`error`. The name or an option is unknown, an option is there twice or without a
                value, or it does not take its value.
        """
        name, colon, rest = text.partition(":")
        if name not in self.names:
            raise self.error(unknown(self.what, name, self.names))
        known = self.names[name]
        options: dict[str, Value] = {}
        for item in rest.split(",") if colon else ():
            option, equals, value = item.partition("=")
            if option not in known:
                which = nearest(named(option), known) if known else "It has none."
                raise self.error(f"{self.what} '{name}' has no option {shown(option)}. {which}")
            if not equals or option in options:
                raise self.error(f"{self.what} {shown(text)}: write each option once, as {option}=VALUE")
            found = known[option].read(value)
            if found is None:
                raise self.error(f"{option}={named(value)} of {self.what} '{name}' has to be {known[option]}")
            options[option] = found
        return name, options


def unknown(what: str, word: str, known: Iterable[str], *, like: str | None = None) -> str:
    """The sentence for a name that there is not: what there is, and the nearest of it.

    Args:
        what: What it should have been a name of.
        word: What was written.
        known: The names that there are.
        like: The part of ``word`` that is compared with them, where it has other parts.
    """
    return f"there is no {what} {shown(word)}. {nearest(named(word if like is None else like), known)}"


def written(name: str, options: Iterable[tuple[str, object]]) -> str:
    """A name with options, as :meth:`Grammar.read` reads it."""
    listed = ",".join(f"{option}={_text(value)}" for option, value in options)
    return f"{name}:{listed}" if listed else name


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
