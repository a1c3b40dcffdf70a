"""How far the clocks of ranks are apart: those of one machine are one, those of several hosts are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

__all__ = ["Clock", "ClockOffset", "clock_offset"]

Clock = Callable[[], float]
"""Seconds since some moment, never going back."""

_ROUND_TRIPS = 32

_TAG = 1001


class ClockOffset(NamedTuple):
    """A rank's clock against that of rank 0.

    Attributes:
        seconds: What the clock shows more than that of rank 0 at the same moment.
        error: By how much that can be wrong: half a round trip.
    """

    seconds: float
    error: float


def clock_offset(group: dist.ProcessGroup, clock: Clock) -> ClockOffset:
    """Compare this rank's clock with that of rank 0, as NTP does (RFC 5905, section 8). All ranks call it together.

    A rank asks rank 0 for the time over and over; rank 0 read its clock at some moment between question and answer,
    most narrowly known in the shortest round trip. Where both clocks may as well be one, as on one machine, they are
    taken for one: a correction would add its own error.

    Args:
        group: A group on gloo.
        clock: This rank's clock.

    Raises:
        RuntimeError: From torch, when a rank does not come.
    """
    rank = dist.get_rank(group)
    if rank == 0:
        for peer in range(1, dist.get_world_size(group)):
            _tell_the_time(group, peer, clock)
        return ClockOffset(0.0, 0.0)
    answer = torch.zeros(1, dtype=torch.float64)
    asked, theirs, answered = min((_ask(group, answer, clock) for _ in range(_ROUND_TRIPS)), key=lambda t: t[2] - t[0])
    seconds, error = (asked + answered) / 2 - theirs, (answered - asked) / 2
    return ClockOffset(0.0 if abs(seconds) <= error else seconds, error)


def _tell_the_time(group: dist.ProcessGroup, peer: int, clock: Clock) -> None:
    question = torch.zeros(1, dtype=torch.float64)
    for _ in range(_ROUND_TRIPS):
        group.recv([question], peer, _TAG).wait()
        group.send([torch.tensor([clock()], dtype=torch.float64)], peer, _TAG).wait()


def _ask(group: dist.ProcessGroup, answer: torch.Tensor, clock: Clock) -> tuple[float, float, float]:
    """When this rank asked, what rank 0 answered, and when that was here."""
    coming = group.recv([answer], 0, _TAG)  # first, so that the answer need not wait for it
    asked = clock()
    group.send([torch.zeros(1, dtype=torch.float64)], 0, _TAG).wait()
    coming.wait()
    answered = clock()
    return asked, answer.item(), answered
