"""What carries the programs of a group: memory that its ranks reach, or its process groups; the same on all ranks.

Ranks of one machine that stand for hosts of their own, in networks of their own, must not go past those: each tells
which processes it sees, and which network, and where they differ in either nothing is shared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from itertools import combinations
from typing import NamedTuple

import torch

from tokenring_xdit.attention.transport import shared_memory, torch_memory
from tokenring_xdit.attention.transport.nccl import ctas_beside_attention
from tokenring_xdit.attention.transport.shared_memory import network_space
from tokenring_xdit.attention.transport.torch_memory import OVERLAPPING_VARIABLE
from tokenring_xdit.errors import ConfigurationError

__all__ = ["TRANSPORT_VARIABLE", "Standpoint", "Wanted", "check_environment", "wanted", "why_not_shared"]

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
        gpu: Name of its GPU; ``None`` for a processor.
        cut_off: Names of GPUs whose memory that does not reach, of those that it sees.
        overlapping: Whether it may be on one GPU with another rank.
        number: That of its GPU in its process, by which torch tells GPUs of a machine apart.
    """

    processes: str | None
    network: str | None
    why_not: str | None
    gpu: str | None = None
    cut_off: Sequence[str] = ()
    overlapping: bool = False
    number: int | None = None

    @classmethod
    def own(cls, processes: str | None, device: torch.device) -> Standpoint:
        """That of this process.

        Args:
            processes: What is known of the processes that it sees.
            device: Where the tensors are.
        """
        if device.type == "cpu":
            return cls(processes, network_space(), shared_memory.unsupported())
        why_not = torch_memory.unsupported(device)
        if why_not is not None:
            return cls(processes, network_space(), why_not)
        number, gpu, cut_off = torch_memory.reach(device)
        overlapping = os.environ.get(OVERLAPPING_VARIABLE) == "1"
        return cls(processes, network_space(), None, gpu, list(cut_off), overlapping, number)


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


def check_environment() -> None:
    """Look at what the environment asks of transports.

    Raises:
        ConfigurationError: For something that does not exist.
    """
    wanted()
    ctas_beside_attention()


def why_not_shared(standpoints: Sequence[Standpoint], names: Sequence[str]) -> str | None:
    """Why the ranks of a group do not share memory; ``None`` where they do.

    Args:
        standpoints: Standpoints of each of them.
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
    return _why_gpus_do_not_reach(standpoints, names)


def _why_gpus_do_not_reach(standpoints: Sequence[Standpoint], names: Sequence[str]) -> str | None:
    for (one, own), (another, other) in combinations(zip(names, standpoints, strict=True), 2):
        overlapping = own.overlapping and other.overlapping
        if own.gpu is not None and own.gpu == other.gpu and not overlapping:
            return f"ranks {one} and {another} are on one GPU, which torch allows with {OVERLAPPING_VARIABLE}=1 only"
        if own.number is not None and own.number == other.number and not overlapping:
            return (
                f"for ranks {one} and {another} their GPU is number {own.number}, which torch takes for one GPU: have "
                "CUDA_VISIBLE_DEVICES show all GPUs to all ranks"
            )
        if other.gpu in own.cut_off or own.gpu in other.cut_off:
            return f"the GPUs of ranks {one} and {another} do not reach each other's memory (no P2P)"
    return None
