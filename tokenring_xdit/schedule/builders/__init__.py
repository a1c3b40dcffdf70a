"""One builder a module; :data:`BUILDERS` is the list of schedules that can be asked for by name."""

from __future__ import annotations

from collections.abc import Callable

from tokenring_xdit.schedule.builders.ring import ring
from tokenring_xdit.schedule.builders.token_ring import token_ring
from tokenring_xdit.schedule.plan import Mask, Schedule

__all__ = ["BUILDERS", "Builder", "ring", "token_ring"]

Builder = Callable[[int, Mask], Schedule]

BUILDERS: dict[str, Builder] = {
    "ring": ring,
    "token_ring": token_ring,
}
