"""Signals that are up or down, where numbers that grow cannot be: what a captured call says is the same in each replay.

A signal belongs to the rank that tells it, to the one that listens, and has a number between those two. In every call
it is told once and listened to once, which takes it down again: so it is down when the next call begins, and nothing
has to be reset. A listener listens to its messages before it has ended a call, and to what says that slots are free
before it has sent what goes there; all ranks come together at the beginning of a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from tokenring_xdit.schedule.lower.landing import Landings

__all__ = ["BARRIER", "RoutedMessage", "Signals", "signals"]

BARRIER = 0
"""The number that the barrier at the beginning of a call uses."""


class RoutedMessage(NamedTuple):
    """A message of a call.

    Attributes:
        source: From which rank.
        destination: To which.
        channel: Its channel.
        number: Which message of its route it is, from 0.
    """

    source: int
    destination: int
    channel: str
    number: int


class Signals(NamedTuple):
    """The numbers of a call's signals.

    Attributes:
        came: Of each message, what its source tells its destination once it has been written.
        free: Of each message whose slot is used before, what its destination tells its source.
        numbers: All of them are less than that.
    """

    came: Mapping[RoutedMessage, int]
    free: Mapping[RoutedMessage, int]
    numbers: int


def signals(found: Landings) -> Signals:
    """Number the signals of a call; the same on all ranks.

    Args:
        found: Where its messages land.
    """
    came: dict[RoutedMessage, int] = {}
    free: dict[RoutedMessage, int] = {}
    used: Counter[tuple[int, int]] = Counter()  # by who tells, and who listens
    for destination, of_rank in enumerate(found):
        for (source, channel), messages in sorted(of_rank.items()):
            for number, landing in enumerate(messages):
                message = RoutedMessage(source, destination, channel, number)
                used[source, destination] += 1
                came[message] = BARRIER + used[source, destination]
                if landing.after:
                    used[destination, source] += 1
                    free[message] = BARRIER + used[destination, source]
    return Signals(came, free, BARRIER + 1 + max(used.values(), default=0))
