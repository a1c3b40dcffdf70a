"""What carries the programs of a group: memory that its ranks share, or its process groups; the same on all ranks.

Ranks of one machine that stand for hosts of their own, in networks of their own, must not go past those: each tells
which processes it sees, and which network, and where they differ in either nothing is shared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from tokenring_xdit.attention.transport.shared_memory import network_space, unsupported
from tokenring_xdit.errors import ConfigurationError

__all__ = ["TRANSPORT_VARIABLE", "Standpoint", "Wanted", "wanted", "why_not_shared"]

TRANSPORT_VARIABLE = "TOKENRING_TRANSPORT"
"""Environment variable: what carries blocks between ranks, one of the values of :class:`Wanted`."""


class Wanted(Enum):
    """What is asked for."""

    PROCESS_GROUPS = "process-groups"
    """Gloo or NCCL: what is taken where nothing is asked for."""
    SYMMETRIC = "symmetric"
    """Memory that all ranks of a group reach; process groups, with a line that says why, where there is none."""


class Standpoint(NamedTuple):
    """What a rank tells the others of where it is, plain data.

    Attributes:
        processes: What two ranks have in common that see each other in ``/proc``; ``None`` where that is not known.
        network: What two ranks have in common that see the same network.
        why_not: Why it cannot share memory with anybody.
    """

    processes: str | None
    network: str | None
    why_not: str | None

    @classmethod
    def own(cls, processes: str | None, device: str) -> Standpoint:
        """That of this process.

        Args:
            processes: What is known of the processes that it sees.
            device: Type of the device where the tensors are.
        """
        if device != "cpu":
            return cls(processes, network_space(), f"it is for processors so far, not for {device}")
        return cls(processes, network_space(), unsupported())


def wanted() -> Wanted:
    """What the environment asks for.

    Raises:
        ConfigurationError: For something that does not exist.
    """
    text = os.environ.get(TRANSPORT_VARIABLE, Wanted.PROCESS_GROUPS.value)
    try:
        return Wanted(text)
    except ValueError:
        names = ", ".join(each.value for each in Wanted)
        raise ConfigurationError(f"{TRANSPORT_VARIABLE}={text!r} is no transport: there are {names}") from None


def why_not_shared(standpoints: Sequence[Standpoint], names: Sequence[str]) -> str | None:
    """Why the ranks of a group do not share memory; ``None`` where they do.

    Args:
        standpoints: Of each of them.
        names: What to call them.
    """
    first = standpoints[0]
    for name, other in zip(names, standpoints, strict=True):
        if other.why_not is not None:
            return f"rank {name}: {other.why_not}"
        if other.processes is None or other.network is None:
            return f"rank {name} does not know which machine and which network it is on"
        if other.processes != first.processes:
            return f"ranks {names[0]} and {name} are on different machines, or in different containers"
        if other.network != first.network:
            return f"ranks {names[0]} and {name} are in different networks of one machine"
    return None
