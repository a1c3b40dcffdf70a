"""What the executor needs of whatever carries messages between ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Buffers, Handle
from tokenring_xdit.schedule.lower.program import RankProgram

__all__ = ["Parcel", "Transport", "with_own"]


class Parcel(NamedTuple):
    """A message to be posted.

    Attributes:
        channel: Name of its channel: between two ranks messages of a channel keep their order.
        tensor: What goes, contiguous, or the memory for what comes.
        peer: The other side.
        last: Whether it is the last tensor of its block, such as values after keys; all are waited for at once.
    """

    channel: str
    tensor: Tensor
    peer: int
    last: bool = True


class Transport(Protocol):
    """Carries the messages of one rank of a group.

    Attributes:
        rank: This rank's number in the group.
        world_size: Ranks of the group.
        in_order: Whether exchanges of a channel are worked off one after the other, each as a whole; else transfers are
            independent, and receives are best posted early.
        buffers: Memory for messages.
    """

    rank: int
    world_size: int
    in_order: bool
    buffers: Buffers

    def begin(self, name: str, programs: Sequence[RankProgram], dtype: torch.dtype, partial_dtype: torch.dtype) -> None:
        """Make ready for the messages of a call, before its first one.

        Args:
            name: What the programs are called.
            programs: What all ranks do.
            dtype: Dtype of queries, keys and values.
            partial_dtype: In which partial outputs travel.

        Raises:
            Broken: That failed.
        """

    def end(self) -> None:
        """Be told that all that came has been read, and all that went has gone."""

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> Sequence[Handle]:
        """Post transfers, receives first, and wait for none.

        Returns:
            What to wait for, for each receive and then for each send.
        """

    def all_gather(self, channel: str, coming: Tensor, own: Tensor) -> None:
        """Give every rank this rank's tensor and take theirs; an all-gather of the group.

        Args:
            channel: The channel.
            coming: Memory for the tensors of all ranks, one behind the other along the first dimension.
            own: Contiguous, of one size on all ranks.
        """

    def all_to_all(self, channel: str, coming: Tensor, going: Tensor, rows: Sequence[int], sent: Sequence[int]) -> None:
        """Give every other rank some rows and take some from each; an all-to-all of the group.

        Args:
            channel: The channel.
            coming: Memory for the rows of all ranks, one behind the other, with those of this rank in their place,
                which may be written.
            going: The rows for all ranks, contiguous, with some for this rank in their place.
            rows: How many come from each other rank.
            sent: How many go to each other rank.
        """

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each."""

    def gave_up(self, error: BaseException) -> bool:
        """Whether an error may be of a device that has waited too long for a rank, and says no more than that."""


def with_own(rows: Sequence[int], rank: int, memory: Tensor) -> list[int]:
    """Rows of each rank's part of a tensor: those of this rank are what the others leave.

    Args:
        rows: Rows of the other ranks.
        rank: This rank.
        memory: The tensor.
    """
    return [*rows[:rank], memory.shape[0] - sum(rows), *rows[rank:]]
