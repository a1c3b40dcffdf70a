"""``auto`` in the place of a schedule's name: chosen for each shape, at its first call."""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule.naming import MOST_RANKS
from tokenring_xdit.spec import Grammar, Whole, YesNo, written

__all__ = ["AUTO", "Auto"]

AUTO = "auto"
_FORM = Grammar("schedule", {AUTO: {"measure": YesNo(), "nodes": Whole(MOST_RANKS)}}, ScheduleError)


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
        if text.partition(":")[0] != AUTO:
            return None
        _, found = _FORM.read(text)
        return cls(bool(found.get("measure", False)), int(found.get("nodes", 1)))

    def __str__(self) -> str:
        options = {"measure": self.measure, "nodes": self.nodes}
        return written(AUTO, [(name, value) for name, value in options.items() if value != getattr(Auto(), name)])
