"""``auto`` in the place of a schedule's name: chosen for each shape, when it is first met."""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.errors import ScheduleError, nearest
from tokenring_xdit.messages import named, shown

__all__ = ["AUTO", "Auto"]

AUTO = "auto"
_OPTIONS = ("measure", "nodes")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Auto:
    """What ``auto`` or ``auto:measure=true`` asks for.

    Attributes:
        measure: Whether the three most promising schedules are timed in the first calls, and the fastest kept.
        nodes: Nodes with a ring of keys between them; 1 without.
    """

    measure: bool = False
    nodes: int = 1

    @classmethod
    def parse(cls, text: str) -> Auto | None:
        """Read it; ``None`` where it names a schedule.

        Raises:
            ScheduleError: It has an option that there is not, or one that does not take this value.
        """
        name, colon, rest = text.partition(":")
        if name != AUTO:
            return None
        found: dict[str, bool | int] = {}
        for item in rest.split(",") if colon else ():
            option, _, value = item.partition("=")
            if option not in _OPTIONS:
                raise ScheduleError(f"schedule 'auto' has no option {shown(option)}. {nearest(option, _OPTIONS)}")
            if option in found:
                raise ScheduleError(f"schedule {shown(text)}: write each option once, as {option}=VALUE")
            if option == "measure" and value not in _WORDS:
                raise ScheduleError(f"measure={named(value)} of schedule 'auto' has to be true or false")
            if option == "nodes" and not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) > 0):
                raise ScheduleError(f"nodes={named(value)} of schedule 'auto' has to be a whole number from 1")
            found[option] = _WORDS[value] if option == "measure" else int(value)
        return cls(bool(found.get("measure", False)), int(found.get("nodes", 1)))

    def __str__(self) -> str:
        options = ["measure=true"] if self.measure else []
        options += [f"nodes={self.nodes}"] if self.nodes > 1 else []
        return f"{AUTO}:{','.join(options)}" if options else AUTO
