"""Looks at a machine: what is installed, which GPUs there are, and what joins them. A process of its own does so."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import permutations

import torch
from torch.cuda import nccl

from tokenring_xdit.devices import gpu_count, processor_name
from tokenring_xdit.doctor.machines import GpuFacts, MachineFacts, NodeFacts
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.lab.probe.commands import Description
from tokenring_xdit.topology import network_to_mapping
from tokenring_xdit.topology.smi import NVIDIA_SMI, load_nvidia_smi

__all__ = ["look_around", "nodes_of"]

_PACKAGES = ("torch", "xfuser", "diffusers", "transformers", "triton", "flash-attn", "flash-attn-4")

_SECONDS = 30


def look_around() -> MachineFacts:
    """What this machine has."""
    cuda = torch.cuda.is_available()
    gpus = range(gpu_count())
    smi, smi_said = None, ""
    try:
        smi = network_to_mapping(load_nvidia_smi(NVIDIA_SMI))
    except ConfigurationError as error:
        smi_said = str(error)
    return MachineFacts(
        host=socket.gethostname(),
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=processor_name(),
        cores=os.cpu_count() or 1,
        memory_bytes=_memory(),
        versions={package: _version(package) for package in _PACKAGES},
        cuda=torch.version.cuda,
        nccl=".".join(map(str, nccl.version())) if cuda else None,  # type: ignore[no-untyped-call]
        driver=_driver(),
        gpus=tuple(_gpu(gpu) for gpu in gpus),
        peers=tuple(pair for pair in permutations(gpus, 2) if torch.cuda.can_device_access_peer(*pair)),
        smi=smi,
        smi_said=smi_said,
    )


def nodes_of(ranks: Sequence[Description]) -> tuple[NodeFacts, ...]:
    """The nodes that ranks are on.

    Args:
        ranks: What each of them said, in order of rank.
    """
    on: dict[int, list[int]] = {}
    for rank, found in enumerate(ranks):
        on.setdefault(found.node, []).append(rank)
    return tuple(
        NodeFacts(
            node=node,
            host=ranks[members[0]].place,
            ranks=tuple(members),
            device=", ".join(dict.fromkeys(ranks[rank].device for rank in members)),
            torch=ranks[members[0]].torch,
        )
        for node, members in sorted(on.items())
    )


def _gpu(index: int) -> GpuFacts:
    found = torch.cuda.get_device_properties(index)
    return GpuFacts(name=found.name, memory_bytes=found.total_memory, capability=(found.major, found.minor))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = [NVIDIA_SMI, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
