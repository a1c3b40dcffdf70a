"""What a schedule is called: a name, and options behind a colon, as in ``direct:chunks=4``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from tokenring_xdit.errors import ScheduleError, nearest
from tokenring_xdit.schedule.builders import BUILDERS
from tokenring_xdit.schedule.plan import Schedule

__all__ = ["Spelled", "options_of", "parse"]

_MOST_CHUNKS = 64
"""More pieces than this only cost time."""

_MOST_RANKS = 4096
"""Largest number of nodes, rows or peers."""

_Value = int | str | None


@dataclass(frozen=True)
class Spelled:
    """A schedule asked for by name.

    Attributes:
        name: One of :data:`BUILDERS`.
        options: Options that differ from their defaults, in alphabetical order.
    """

    name: str
    options: tuple[tuple[str, _Value], ...] = ()

    def __str__(self) -> str:
        options = ",".join(f"{option}={value}" for option, value in self.options)
        return f"{self.name}:{options}" if options else self.name

    def plan(self, world_size: int, heads: int) -> Schedule:
        """The plan with the full mask, not proved yet.

        Args:
            world_size: Number of ranks.
            heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        """
        builder = BUILDERS[self.name]
        known = {"heads": heads} if "heads" in inspect.signature(builder).parameters else {}
        return builder(world_size, **dict(self.options), **known)


def options_of(name: str) -> dict[str, _Value]:
    """The options that a schedule takes, with their defaults; ``None`` for a number chosen by the schedule."""
    parameters = inspect.signature(BUILDERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "heads"}


def parse(text: str) -> Spelled:
    """Read ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``.

    Raises:
        ScheduleError: There is no such schedule or option, or the option does not take that value.
    """
    name, colon, rest = text.partition(":")
    if name not in BUILDERS:
        raise ScheduleError(f"there is no schedule '{name}'. {nearest(name, BUILDERS)}")
    defaults = options_of(name)
    options: dict[str, _Value] = {}
    for item in rest.split(",") if colon else ():
        option, equals, value = item.partition("=")
        if option not in defaults:
            raise ScheduleError(f"schedule '{name}' has no option '{option}'. {nearest(option, defaults)}")
        if not equals or option in options:
            raise ScheduleError(f"schedule '{text}': write each option once, as {option}=VALUE")
        options[option] = value if isinstance(defaults[option], str) else _number(name, option, value)
    return Spelled(name, tuple(sorted((o, v) for o, v in options.items() if v != defaults[o])))


_DIGITS = 9
"""Of numbers that are read: Python refuses to read those of thousands."""


def _number(name: str, option: str, value: str) -> int:
    most = _MOST_CHUNKS if option == "chunks" else _MOST_RANKS
    if not (value.isascii() and value.isdecimal() and len(value) <= _DIGITS and 1 <= int(value) <= most):
        raise ScheduleError(f"{option}={value} of schedule '{name}' has to be a whole number from 1 to {most}")
    return int(value)
