"""What a probe asks its ranks for, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.lab.probe.figures import Transfer

__all__ = ["Describe", "Description", "Ping", "SendMessages"]


@dataclass(frozen=True)
class Describe:
    """Say where you are. The answer is a :class:`Description`."""


@dataclass(frozen=True)
class Description:
    """Where a rank is.

    Attributes:
        place: Name of its host.
        device: Name of what its tensors are on.
        backend: Of torch.distributed.
        torch: Version.
    """

    place: str
    device: str
    backend: str
    torch: str


@dataclass(frozen=True)
class SendMessages:
    """SendMessages messages, all transfers at the same time, after a barrier.

    The answer of a rank has, for each transfer that it receives, by its index, when each message had arrived: seconds
    since the rank left the barrier.

    Attributes:
        transfers: Which rank to which.
        sizes: Bytes of a message of each.
        messages: How many of them.
    """

    transfers: tuple[Transfer, ...]
    sizes: tuple[int, ...]
    messages: int


@dataclass(frozen=True)
class Ping:
    """SendMessages a few bytes to and fro.

    The answer of the first of the pair is the seconds of one way, of every round; the others answer ``None``.

    Attributes:
        pair: Two ranks.
        rounds: How many times.
    """

    pair: Transfer
    rounds: int
