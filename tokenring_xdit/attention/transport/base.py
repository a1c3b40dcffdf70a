"""What the executor needs of whatever carries messages between ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from tokenring_xdit.attention.buffers import Buffers, Handle

__all__ = ["Parcel", "Transport"]


class Parcel(NamedTuple):
    """A message to be posted.

    Attributes:
        channel: Name of its channel: between two ranks messages of a channel keep their order.
        tensor: What goes, contiguous, or the memory for what comes.
        peer: The other side.
    """

    channel: str
    tensor: Tensor
    peer: int


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

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> Sequence[Handle]:
        """Post transfers, receives first, and wait for none.

        Returns:
            What to wait for, for each receive and then for each send.
        """

    def all_gather(self, channel: str, outputs: Sequence[Tensor], own: Tensor) -> None:
        """Give every rank this rank's tensor and take theirs, all of one size; an all-gather of the group.

        Args:
            channel: The channel.
            outputs: Memory for the other ranks' tensors, in the order of the ranks.
            own: Contiguous.
        """

    def all_to_all(self, channel: str, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Give every other rank a tensor of its own and take one from each, of one dtype; an all-to-all of the group.

        Args:
            channel: The channel.
            outputs: Memory for what comes from the other ranks, in the order of the ranks.
            inputs: What goes to them, contiguous, in that order.
        """

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each."""
