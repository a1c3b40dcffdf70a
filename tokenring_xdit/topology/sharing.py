"""How transfers share links: max-min fair rates, as many TCP connections or copies at once come to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Amounts", "Direction", "Numbers", "fill"]

Direction = tuple[str, str]
"""A direction of a link: from node, to node."""
Numbers = NDArray[np.intp]
Amounts = NDArray[np.float64]

_NOTHING = 1e-9  # of a link that is left is rounding


def fill(users: int, user: Numbers, limit: Numbers, part: Amounts, room: Amounts) -> tuple[Amounts, Numbers]:
    """Let all users of some limits grow alike until each comes to one that is full.

    Args:
        users: How many there are; each has a limit.
        user: Of each pair of a user and a limit the user.
        limit: And the limit.
        part: And what of the limit a rate of 1 takes.
        room: What each limit has.

    Returns:
        The rate of each user, and the limit that keeps it from more.
    """
    rates, reasons = np.zeros(users), np.zeros(users, dtype=np.intp)
    left, reached = room.copy(), 0.0
    while user.size:
        taken = np.bincount(limit, part, minlength=len(left))
        used = taken > 0
        step = float((left[used] / taken[used]).min())
        reached += step
        left -= step * taken
        met = np.flatnonzero((left <= _NOTHING)[limit])
        # Of several that are full at the same time the one that most share: of equal indices the last one is kept.
        sharing = np.bincount(limit)[limit[met]]
        met = met[np.lexsort((-limit[met], sharing))]
        reasons[user[met]] = limit[met]
        rates[user[met]] = reached
        growing = np.ones(users, dtype=bool)
        growing[user[met]] = False
        kept = growing[user]
        user, limit, part = user[kept], limit[kept], part[kept]
    return rates, reasons
