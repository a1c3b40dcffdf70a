"""Schedules as data: what travels, over which channel, and when; proved before they run.

This floor is pure Python and imports neither torch nor xfuser.
"""

from __future__ import annotations

from functools import lru_cache

from tokenring_xdit.schedule.algorithm import Algorithm, Published
from tokenring_xdit.schedule.auto import AUTO, Auto
from tokenring_xdit.schedule.builders import ALGORITHMS
from tokenring_xdit.schedule.causal import causal
from tokenring_xdit.schedule.describe import describe
from tokenring_xdit.schedule.naming import MOST_RANKS, ScheduleSpec, known_as, parse
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
    cut,
    kv_block,
    o_block,
    q_block,
)
from tokenring_xdit.schedule.timeline import Activity, Span, Timeline, perfetto
from tokenring_xdit.schedule.verify import VerifiedSchedule, verify

__all__ = [
    "ALGORITHMS",
    "AUTO",
    "MOST_RANKS",
    "WHOLE",
    "Action",
    "Activity",
    "Algorithm",
    "Attend",
    "Auto",
    "Block",
    "Channel",
    "Exchange",
    "Kind",
    "Mask",
    "Merge",
    "Piece",
    "Program",
    "Published",
    "Schedule",
    "ScheduleSpec",
    "Span",
    "Timeline",
    "Transfer",
    "VerifiedSchedule",
    "build",
    "causal",
    "cut",
    "describe",
    "known_as",
    "kv_block",
    "o_block",
    "parse",
    "perfetto",
    "q_block",
    "verify",
]


@lru_cache(maxsize=256)
def build(name: str, world_size: int, mask: Mask = Mask.FULL, heads: int = 0) -> VerifiedSchedule:
    """Build and prove a schedule by name.

    Args:
        name: One of :data:`ALGORITHMS`, with options as in ``direct:chunks=4``.
        world_size: Number of ranks, at least 1.
        mask: Which pairs of query and key blocks are asked for.
        heads: What the numbers of query and key heads are multiples of, for schedules that cut heads
            where they can; 0 where any cut will do.

    Raises:
        ScheduleError: The name is unknown, has options that it does not take, or is not defined for this
            mask or number of ranks.
    """
    return verify(parse(name).plan(world_size, mask, heads))
