"""What a probe asks its ranks for, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.probe.figures import Transfer

__all__ = ["Arrivals", "Describe", "Description", "OneWay", "Ping", "SendMessages"]


@dataclass(frozen=True)
class Describe:
    """Say where you are. The answer is a :class:`Description`."""


@dataclass(frozen=True)
class Description:
    """Where a rank is.

    Attributes:
        place: Name of its host.
        node: Number of its node, as torchrun counts.
        device: Name of what its tensors are on.
        backend: Backend of torch.distributed.
        torch: Version.
    """

    place: str
    node: int
    device: str
    backend: str
    torch: str


@dataclass(frozen=True)
class SendMessages:
    """Send messages, all transfers at the same time, after a barrier. The answer is :class:`Arrivals`.

    Attributes:
        transfers: Which rank to which.
        sizes: Bytes of a message of each.
        messages: How many of them.
    """

    transfers: tuple[Transfer, ...]
    sizes: tuple[int, ...]
    messages: int


@dataclass(frozen=True)
class Arrivals:
    """When messages had arrived at a rank.

    Attributes:
        seconds: Of each transfer that it receives, by its index, one number a message, since it left the barrier.
    """

    seconds: dict[int, list[float]]


@dataclass(frozen=True)
class Ping:
    """Send a few bytes to and fro. The answer of the first of the pair is :class:`OneWay`; the others answer ``None``.

    Attributes:
        pair: Two ranks.
        rounds: How many times.
    """

    pair: Transfer
    rounds: int


@dataclass(frozen=True)
class OneWay:
    """What a few bytes took for one way.

    Attributes:
        seconds: Seconds of every round.
    """

    seconds: list[float]
