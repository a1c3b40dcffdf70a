"""The links that ``nvidia-smi topo -m`` prints as a network to plan for.

It says what joins two GPUs and how many NVLinks, and not how fast these are: rates are those of most machines, one
direction, as makers publish them. ``tokenring-xdit probe`` measures.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import one_line
from tokenring_xdit.topology.alone import NVLINK_4, PCIE_4
from tokenring_xdit.topology.links import Counts, Link, Rate
from tokenring_xdit.topology.network import Network
from tokenring_xdit.topology.nvidia import GpuTopology, LinkKind, parse

__all__ = ["NO_PROGRAM", "NVIDIA_SMI", "load_nvidia_smi", "network_of", "run_nvidia_smi"]

NVIDIA_SMI = "nvidia-smi"
"""What the topology of this machine's GPUs is called."""

_SECONDS = 60

NO_PROGRAM = "there is no such program, so no driver of NVIDIA's"

_NVLINK = 25_000_000_000 * 8
"""Bits a second of an NVLink 2 to 4 (V100, A100, H100), one direction. Bridges of GA102 cards have 14 GB/s a link."""

_PCIE = PCIE_4.bits_per_second
"""Taken for every slot, and for what joins two sockets."""

_MOST_NVLINKS = 18
"""That a GPU has, an H100's: where it seems to have more to all others, they lead to NVSwitches."""

_PCIE_KINDS = tuple(kind for kind in LinkKind if kind is not LinkKind.NVLINK)
"""The nearest first."""


def load_nvidia_smi(text: str) -> Network:
    """The GPUs of this machine, or those of a file with what ``nvidia-smi topo -m`` printed elsewhere.

    This machine's are in the order of ``CUDA_VISIBLE_DEVICES``, where that has numbers, as ranks are.

    Args:
        text: :data:`NVIDIA_SMI`, or the name of the file.

    Raises:
        ConfigurationError: There is no nvidia-smi, it fails, or what it prints is no such matrix.
    """
    if text != NVIDIA_SMI:
        try:
            return network_of(parse(Path(text).read_text(errors="replace")), text)
        except OSError as error:
            raise ConfigurationError(f"topology {one_line(text)} cannot be read: {error.strerror}") from error
    said = run_nvidia_smi("topo", "-m")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    order = [int(word) for word in visible] if all(word.strip().isdecimal() for word in visible) else None
    return network_of(parse(said), NVIDIA_SMI, order)


def run_nvidia_smi(*arguments: str) -> str:
    """What nvidia-smi prints.

    Raises:
        ConfigurationError: There is none, it fails, or it does not answer; with what it says.
    """
    try:
        done = subprocess.run(
            [NVIDIA_SMI, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_SECONDS,
        )
    except FileNotFoundError:
        reason = NO_PROGRAM
    except subprocess.TimeoutExpired:
        reason = f"it did not answer within {_SECONDS} s, as where a driver hangs"
    except OSError as error:
        reason = f"it cannot be run: {error.strerror}"
    else:
        if done.returncode == 0:
            return done.stdout
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = f"exit status {done.returncode}" + (f": {one_line(lines[0])}" if lines else "")
    raise ConfigurationError(f"topology {NVIDIA_SMI}: {reason}") from None


def network_of(topology: GpuTopology, name: str, order: Sequence[int] | None = None) -> Network:
    """GPUs and what joins them: NVLinks, or NVSwitches, and a tree of PCIe for pairs without.

    Args:
        topology: The GPUs.
        name: Name of the network.
        order: Indices of those to use, rank 0's first; all in their order by default.

    Raises:
        ConfigurationError: A GPU is not there.
    """
    gpus = tuple(topology.gpus if order is None else order)
    if unknown := set(gpus) - set(topology.gpus):
        raise ConfigurationError(f"there is no GPU {min(unknown)}; this machine has {len(topology.gpus)}")
    pairs = {pair: topology.between(*pair) for pair in itertools.combinations(gpus, 2)}
    ports = {gpu: [link.nvlinks for pair, link in pairs.items() if gpu in pair and link.nvlinks] for gpu in gpus}
    switched = {gpu for gpu, links in ports.items() if sum(links) > _MOST_NVLINKS}
    switches = ["nvswitch"] if switched else []
    links = [_to_switch(f"g{gpu}", max(ports[gpu])) for gpu in gpus if gpu in switched]
    links += [
        _link(f"g{a}", f"g{b}", _NVLINK * link.nvlinks)
        for (a, b), link in pairs.items()
        if link.nvlinks and not {a, b} <= switched
    ]
    if not all(link.nvlinks for link in pairs.values()):
        added, tree = _pcie_tree({pair: link.kind for pair, link in pairs.items()})
        switches, links = [*switches, *added], [*links, *tree]
    return Network(name, tuple(f"g{gpu}" for gpu in gpus), tuple(switches), tuple(links), False, Counts.LINK)


def _pcie_tree(kinds: Mapping[tuple[int, int], LinkKind]) -> tuple[list[str], list[Link]]:
    """Switches and links of PCIe, from the nearest pairs to the farthest.

    Where NVLink joins two, nvidia-smi does not say which way PCIe would take: such a pair joins nothing here.
    """
    switches: list[str] = []
    links: list[Link] = []
    groups = {f"g{gpu}": {gpu} for gpu in dict.fromkeys(itertools.chain(*kinds))}
    for kind in _PCIE_KINDS:
        for pair in (pair for pair, its in kinds.items() if its is kind):
            ends = [node for node, members in groups.items() if members & {*pair}]
            if len(ends) == 1:
                continue
            known = groups if kind is LinkKind.SYSTEM else ends  # between sockets there is one way
            name = kind.value.lower()
            node = next((each for each in known if each.startswith(name)), f"{name}{len(switches)}")
            if node not in groups:
                switches.append(node)
                groups[node] = set()
            for end in ends:
                if end != node:
                    links.append(_link(end, node, _PCIE))
                    groups[node] |= groups.pop(end)
    return switches, links


def _to_switch(gpu: str, nvlinks: int) -> Link:
    messages = NVLINK_4 if nvlinks == _MOST_NVLINKS else ()
    return replace(_link(gpu, "nvswitch", _NVLINK * nvlinks), messages=messages)


def _link(a: str, b: str, rate: int) -> Link:
    return Link(a, b, Rate(rate), Rate(rate))
