"""Which rank is where on a cluster, and what it finds in its environment there."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.keys import KEY_VARIABLE
from tokenring_xdit.topology.nvidia import best_order, parse

__all__ = ["Seat", "carried_over", "cluster_name", "in_order", "inherited", "interface_of", "variables"]

_CARRIED = (
    *("CUDA_", "DIFFUSERS_", "GLOO_", "HF_", "HUGGINGFACE_", "KMP_", "LOG_LEVEL", "MKL_", "NCCL_", "OMP_"),
    *("PYTHONWARNINGS", "PYTORCH_", "TOKENRING_", "TORCH_", "TRANSFORMERS_", "TRITON_"),
)
"""How variables begin that ranks take over from whoever started them; the others are those of their nodes."""

_OF_ONE_PROCESS = ("CUDA_VISIBLE_DEVICES", KEY_VARIABLE, "TOKENRING_INIT_METHOD", "TOKENRING_LAUNCHER")

_OF_RAY = ("RAY_", "OMP_NUM_THREADS")
"""How variables begin that Ray sets in its workers."""

_GPU_KIND = "accelerator_type:"
"""How resources begin that say which GPUs there are."""

_SIOCGIFADDR = 0x8915  # of netdevice(7): the address of an interface
_ADDRESS = slice(20, 24)  # of it in struct ifreq


@dataclass(frozen=True)
class Seat:
    """A place for a rank.

    Attributes:
        bundle: Its number in the placement group.
        node: Ray's name of its node.
        address: Address of that node.
        gpus: What Ray gave it.
        links: What ``nvidia-smi topo -m`` printed there; empty where that is not known.
    """

    bundle: int
    node: str
    address: str
    gpus: tuple[str, ...] = ()
    links: str = ""


def cluster_name(address: str, resources: Mapping[str, float]) -> str:
    """What to call a cluster.

    Args:
        address: Of its head.
        resources: What it has, by Ray's names.
    """
    kinds = sorted(name.removeprefix(_GPU_KIND) for name in resources if name.startswith(_GPU_KIND))
    return ", ".join([f"ray {address}", *kinds])


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a rank takes over from the worker of Ray that starts it: what its node says, but no key of a server.

    Args:
        environment: Environment of that worker.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(_OF_RAY)}
    kept.pop(KEY_VARIABLE, None)
    return kept


def in_order(seats: Sequence[Seat], ulysses: int = 1) -> list[Seat]:
    """Seats in the order of the ranks: node by node, and in a node along the links of its GPUs.

    Args:
        seats: All of a world.
        ulysses: Size of the Ulysses groups.
    """
    nodes: dict[str, list[Seat]] = {}
    for seat in sorted(seats, key=lambda seat: seat.bundle):
        nodes.setdefault(seat.node, []).append(seat)
    # Nodes with more seats come first, so that groups of Ulysses are inside of nodes where they can be.
    groups = sorted(nodes.values(), key=lambda group: (-len(group), group[0].bundle))
    return [seat for group in groups for seat in _along_links(group, ulysses)]


def _along_links(group: Sequence[Seat], ulysses: int) -> Sequence[Seat]:
    if not all(len(seat.gpus) == 1 and seat.gpus[0].isdigit() for seat in group):
        return group
    by_gpu = {int(seat.gpus[0]): seat for seat in group}
    within = len(group) if ulysses < 1 or len(group) % ulysses else ulysses
    try:
        order: Sequence[int] = best_order(parse(group[0].links), sorted(by_gpu), ulysses=within)
    except ConfigurationError:  # no nvidia-smi there, or it numbers GPUs otherwise
        order = sorted(by_gpu)
    return [by_gpu[gpu] for gpu in order]


def carried_over(environment: Mapping[str, str]) -> dict[str, str]:
    """What ranks take over from the environment of whoever starts them; never keys, nor what is one process's own."""
    return {
        name: value for name, value in environment.items() if name.startswith(_CARRIED) and name not in _OF_ONE_PROCESS
    }


def variables(seats: Sequence[Seat], rank: int, port: int) -> dict[str, str]:
    """What a rank finds in its environment, as ranks of ``torchrun`` do.

    Args:
        seats: Seats of all ranks, in their order.
        rank: Its number.
        port: Where the first one's store listens.
    """
    here = [number for number, seat in enumerate(seats) if seat.node == seats[rank].node]
    gpus = [gpu for number in here for gpu in seats[number].gpus]
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(seats)),
        "LOCAL_RANK": str(here.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(here)),
        "MASTER_ADDR": seats[0].address,
        "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),  # of all ranks here, so that they reach each other's memory
    }


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IPv4 address; ``None`` where none does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[_ADDRESS]) == address:
                return name
    return None
