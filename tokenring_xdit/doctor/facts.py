"""Looks at a machine: what is installed, which GPUs there are, and what joins them. A process of its own does so."""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import permutations

import torch
from torch.cuda import nccl
from torch.distributed import is_nccl_available

from tokenring_xdit.devices import processor_name
from tokenring_xdit.doctor.machines import GpuFacts, MachineFacts, NodeFacts
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import one_line
from tokenring_xdit.probe.commands import Description
from tokenring_xdit.topology import network_to_mapping
from tokenring_xdit.topology.smi import NVIDIA_SMI, load_nvidia_smi, run_nvidia_smi

__all__ = ["look_around", "nodes_of"]

_PACKAGES = ("torch", "xfuser", "diffusers", "transformers", "triton", "flash-attn", "flash-attn-4")

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def look_around() -> MachineFacts:
    """What this machine has."""
    gpus, peers, cuda_said = _gpus()
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
        cuda_said=cuda_said,
        nccl=".".join(map(str, nccl.version())) if gpus and is_nccl_available() else None,  # type: ignore[no-untyped-call]
        driver=_driver(),
        gpus=gpus,
        peers=peers,
        smi=smi,
        smi_said=smi_said,
    )


def _gpus() -> tuple[tuple[GpuFacts, ...], tuple[tuple[int, int], ...], str]:
    """The GPUs, whose memory each reaches, and why there are none, where this torch is one for GPUs."""
    if torch.version.cuda is None and torch.version.hip is None:
        return (), (), ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        indices = range(torch.cuda.device_count())
        found = tuple(_gpu(index) for index in indices)
        peers = tuple(pair for pair in permutations(indices, 2) if torch.cuda.can_device_access_peer(*pair))
    except (RuntimeError, AssertionError) as error:
        visible = os.environ.get(_VISIBLE)
        hidden = "" if visible is None else f"; {_VISIBLE} is '{visible}'"
        return (), (), one_line(str(error).partition("\n")[0]) + hidden
    return found, peers, ""


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
    try:
        said = run_nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    except ConfigurationError:
        return None
    found = re.search(r"^\s*(\d[\d.]*)\s*$", said, re.MULTILINE)  # and not "[N/A]"
    return found[1] if found else None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
