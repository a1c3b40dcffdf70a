"""The seam between those who ask ranks and those who start them: on this machine, or on Ray.

Messages to ranks and the meaning of failures are the same for both; a process of a rank, and how bytes come to it and
back, is not. :class:`tokenring_xdit.workers.worker.Worker` is a process of this machine with two pipes;
:class:`tokenring_xdit.workers.on_ray.rank.ActorRank` is one behind an actor of Ray, on any node.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Protocol

from tokenring_xdit.workers.attempt import Life

__all__ = ["Inbox", "Packing", "RankStarter", "StartedRank", "WorldPlace", "called"]

Inbox = queue.SimpleQueue[tuple[Any, Any]]
"""Messages of ranks, with the rank that each is from; or ``None`` and an event for whoever waits for them."""


class Packing(Protocol):
    """How messages become bytes.

    Attributes:
        name: Name of the packing, for the rank's process to use the same; empty for that of pipes.
    """

    name: str

    def pack(self, message: Any) -> bytes:
        """A message as bytes.

        Raises:
            Exception: It cannot be sent.
        """

    def unpack(self, packed: bytes) -> Any:
        """What :meth:`pack` was given."""


class StartedRank(Protocol):
    """A rank, from the side of whoever started it; its answers, and at last a ``Gone``, come to an inbox.

    Attributes:
        rank: Its number in its world.
        node: The address of its node; ``None`` of a rank of this machine.
    """

    rank: int
    node: str | None

    def __hash__(self) -> int: ...

    @property
    def pid(self) -> int:
        """Its process id, on its node."""

    @property
    def identity(self) -> Life | None:
        """Its process; ``None`` where that had ended before anybody could look."""

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""

    def send(self, packed: bytes) -> None:
        """Tell the rank; waits for nothing."""

    def kill(self) -> None:
        """End it, also where it is stopped; waits for nothing."""

    def hang_up(self) -> None:
        """Let it end; waits for nothing."""

    def wait(self, timeout: float) -> None:
        """Wait for its end, once it was hung up on; kill it when the time is over."""

    def printed(self) -> str:
        """What it has printed until now, as far as that can be had."""

    def memory(self) -> int | None:
        """Its resident bytes; ``None`` where nobody knows."""


class RankStarter(Protocol):
    """Starts the ranks of a world.

    Attributes:
        packing: How messages to and from them are packed.
    """

    packing: Packing

    def start(self, program: str, ranks: int, inbox: Inbox) -> Iterator[StartedRank]:
        """Start them, in the order of their numbers.

        Args:
            program: What they serve; see :func:`tokenring_xdit.workers.loop.serve`.
            ranks: How many.
            inbox: Where their answers go.

        Raises:
            LaunchError: One could not be started.
        """


class WorldPlace(Protocol):
    """Where the worlds of an engine are.

    Attributes:
        packing: Packing of all of them.
        cluster: Which cluster that is, in words; ``None`` for this machine.
    """

    packing: Packing
    cluster: str | None

    def world(self, replica: int) -> RankStarter:
        """Starts the ranks of one."""

    def hang_up(self) -> None:
        """Start nothing any more, from any thread."""

    def close(self) -> None:
        """Give back what was taken, once all ranks have ended."""


def called(rank: StartedRank) -> str:
    """A rank's name in messages."""
    return f"rank {rank.rank}" + ("" if rank.node is None else f" on node {rank.node}")
