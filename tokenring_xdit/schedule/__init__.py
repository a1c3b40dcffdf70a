"""Schedules as data: what travels, over which channel, and when; proved before they run.

This floor is pure Python and imports neither torch nor xfuser.
"""

from __future__ import annotations

from functools import lru_cache

from tokenring_xdit.errors import ScheduleError, nearest
from tokenring_xdit.schedule.builders import BUILDERS
from tokenring_xdit.schedule.describe import describe
from tokenring_xdit.schedule.plan import (
    WHOLE,
    Action,
    Attend,
    Block,
    Channel,
    Exchange,
    Kind,
    Mask,
    Merge,
    Piece,
    Program,
    Schedule,
    Transfer,
    kv_block,
    o_block,
    q_block,
)
from tokenring_xdit.schedule.verify import VerifiedSchedule, verify

__all__ = [
    "BUILDERS",
    "WHOLE",
    "Action",
    "Attend",
    "Block",
    "Channel",
    "Exchange",
    "Kind",
    "Mask",
    "Merge",
    "Piece",
    "Program",
    "Schedule",
    "Transfer",
    "VerifiedSchedule",
    "build",
    "describe",
    "kv_block",
    "o_block",
    "q_block",
    "verify",
]


@lru_cache(maxsize=256)
def build(name: str, world_size: int, mask: Mask = Mask.FULL) -> VerifiedSchedule:
    """Build and prove a schedule by name.

    Args:
        name: One of :data:`BUILDERS`.
        world_size: Number of ranks, at least 1.
        mask: Which pairs of query and key blocks are asked for.

    Raises:
        ScheduleError: The name is unknown or the world size is not a positive number.
    """
    if name not in BUILDERS:
        raise ScheduleError(f"there is no schedule '{name}'. {nearest(name, BUILDERS)}")
    if world_size < 1:
        raise ScheduleError(f"a schedule needs at least one rank, not {world_size}")
    return verify(BUILDERS[name](world_size, mask))
