"""Rounds of a group's ranks over gloo: each tells every other what it is about to do, with the number of its call.

A round compares a few numbers. Where they are not alike on all ranks, all of them see that, and swap reports in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.plain import from_bytes

__all__ = ["Unanswered", "swap", "tell_all"]

_TAG = 0


class Unanswered(Exception):  # noqa: N818
    """A round did not end.

    Attributes:
        missing: Ranks of the group whose message has not come.
    """

    def __init__(self, missing: Sequence[int], error: BaseException) -> None:
        super().__init__(str(error))
        self.missing = tuple(missing)


def tell_all(own: tuple[int, ...], group: dist.ProcessGroup, timeout: timedelta) -> list[list[int]]:
    """The numbers of every rank. Straight to each of them: a collective of gloo passes them on, hop by hop.

    Raises:
        Unanswered: A rank did not come in time, or the connection to it broke.
    """
    mine = torch.tensor(own)
    return [head.tolist() for head in _pass_round(mine, [mine.shape[0]] * group.size(), group, timeout)]


def swap(value: bytes, sizes: Sequence[int], group: dist.ProcessGroup, timeout: timedelta) -> list[Any]:
    """The values, as bytes, of every rank, whose sizes all of them know.

    Raises:
        Unanswered: As :func:`tell_all`.
    """
    mine = torch.frombuffer(bytearray(value), dtype=torch.uint8)
    return [from_bytes(part.numpy().tobytes()) for part in _pass_round(mine, sizes, group, timeout)]


def _pass_round(
    mine: torch.Tensor, sizes: Sequence[int], group: dist.ProcessGroup, timeout: timedelta
) -> list[torch.Tensor]:
    rank = group.rank()
    parts = [mine if peer == rank else mine.new_empty(size) for peer, size in enumerate(sizes)]
    peers = [peer for peer in range(len(sizes)) if peer != rank]
    coming: dict[int, dist.Work] = {}
    came: set[int] = set()
    try:
        for peer in peers:
            coming[peer] = group.recv([parts[peer]], peer, _TAG)
        going = [group.send([mine], peer, _TAG) for peer in peers]
        for peer, work in coming.items():
            work.wait(timeout)
            came.add(peer)
        for work in going:
            work.wait(timeout)
    except RuntimeError as error:
        # Everything on this group has failed now; messages that had arrived can still be distinguished.
        for peer in coming.keys() - came:
            with suppress(RuntimeError):
                coming[peer].wait(timedelta(milliseconds=1))
                came.add(peer)
        raise Unanswered([peer for peer in peers if peer not in came], error) from error
    return parts
