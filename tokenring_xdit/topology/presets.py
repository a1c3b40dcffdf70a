"""Machines by name, with the rates that their makers publish; none of them was measured here.

``hgx-h100`` is one node; ``hgx-h100*4@ib-ndr`` are four of them, with a link from each NIC to one switch. Rates are
those of one direction and count what the maker counts (:attr:`Counts.LINK`): what arrives is less, which is known of
PCIe 4.0, and counted. Every figure names its source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import shown
from tokenring_xdit.spec import Whole, unknown
from tokenring_xdit.topology.alone import NVLINK_4, NVLINK_4_SOURCE, PCIE_4, PCIE_4_SOURCE
from tokenring_xdit.topology.files import load_network
from tokenring_xdit.topology.links import Counts, Link, Rate
from tokenring_xdit.topology.network import EXAMPLES, MOST_NODES, Network
from tokenring_xdit.topology.smi import NVIDIA_SMI, load_nvidia_smi

__all__ = ["FABRICS", "PRESETS", "Fabric", "Preset", "find_preset", "load_topology"]

_NAME = re.compile(r"(?P<node>[^*@]+)\*(?P<count>[^*@]+)@(?P<fabric>[^*@]+)")


@dataclass(frozen=True)
class Preset:
    """A machine, or several of them joined by a fabric.

    Attributes:
        name: What to call it by.
        what: One line for people.
        network: Its network.
        sources: Where each figure comes from.
    """

    name: str
    what: str
    network: Network
    sources: tuple[str, ...]

    def remarks(self) -> dict[str, object]:
        """What is written into its file beside the network."""
        note = f"{self.what}. Figures that makers or others publish, of one direction; not measured here."
        return {"notes": [note], "sources": list(self.sources), "measured": False}


@dataclass(frozen=True)
class Fabric:
    """What joins nodes.

    Attributes:
        name: What to call it by.
        rate: Rate of a NIC, one direction.
        one_a_node: Whether a node has one NIC, instead of one at each place that its preset has for them.
        source: Where the figure comes from.
    """

    name: str
    rate: Rate
    one_a_node: bool
    source: str

    @property
    def what(self) -> str:
        """One line for people."""
        return f"{self.rate} a NIC, {'one NIC a node' if self.one_a_node else 'a NIC at each GPU or PCIe switch'}"


@dataclass(frozen=True)
class _Machine:
    """A node as it is repeated.

    Attributes:
        what: One line for people.
        gpus: How many.
        switches: Names.
        links: Two ends and a rate each.
        nics: Nodes with a NIC each, in a fabric that has several a node.
        nic: Nodes that share the NIC, in a fabric that has one a node.
        sources: Where the figures come from.
        messages: What a message alone reaches on each of the links, by its size.
    """

    what: str
    gpus: int
    switches: tuple[str, ...]
    links: tuple[tuple[str, str, Rate], ...]
    nics: tuple[str, ...]
    nic: tuple[str, ...]
    sources: tuple[str, ...]
    messages: tuple[tuple[int, Rate], ...] = ()


def _gigabytes(number: float) -> Rate:
    """A rate that is published in GB/s, of one direction."""
    return Rate(round(number * 8e9))


def _gpus(count: int) -> tuple[str, ...]:
    return tuple(f"g{index}" for index in range(count))


def _full_mesh(count: int, rate: Rate) -> tuple[tuple[str, str, Rate], ...]:
    return tuple((a, b, rate) for a, b in combinations(_gpus(count), 2))


_DGX_1_NVLINKS = {
    1: ((0, 1), (0, 2), (1, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7)),
    2: ((0, 3), (0, 4), (1, 2), (1, 5), (2, 3), (4, 7), (5, 6), (6, 7)),
}
"""Pairs of GPUs by the number of NVLinks between them, as ``nvidia-smi topo -m`` of a DGX-1 prints them."""

_PCIE_4 = "NVIDIA A40 datasheet: PCIe Gen4 x16, 64 GB/s both directions together"


def _dgx_1() -> _Machine:
    pcie = _gigabytes(16)
    nvlinks = tuple((f"g{a}", f"g{b}", _gigabytes(25 * n)) for n, pairs in _DGX_1_NVLINKS.items() for a, b in pairs)
    switches = tuple((gpu, f"plx{index // 2}", pcie) for index, gpu in enumerate(_gpus(8)))
    sockets = tuple((f"plx{index}", f"cpu{index // 2}", pcie) for index in range(4))
    return _Machine(
        "DGX-1: 8 x V100 in a hybrid cube mesh of NVLink, other pairs over PCIe and the CPU sockets",
        8,
        ("plx0", "plx1", "plx2", "plx3", "cpu0", "cpu1"),
        (*nvlinks, *switches, *sockets, ("cpu0", "cpu1", _gigabytes(2 * 19.2))),
        ("plx0", "plx1", "plx2", "plx3"),
        ("cpu0",),
        (
            "NVLink 25 GB/s in each direction of each link: NVIDIA's NVLink page, and its DGX-1 white paper (WP-08437) "
            "as iitr.ac.in/dgx repeats it",
            "which pairs have one link and which two: nvidia-smi topo -m of a DGX-1, in tests/test_topologies.py of "
            "github.com/microsoft/msccl-tools; Alibaba Cloud Container Service, 'GPU topology', says the same of GPU0",
            "PCIe 3.0 x16, 16 GB/s: Alibaba Cloud Container Service, 'GPU topology'; four switches with two GPUs and "
            "a NIC each: the same nvidia-smi matrix",
            "two QPI links of 9.6 GT/s between the sockets: DGX-1 component list; times 2 bytes a transfer",
        ),
    )


def _on_nvswitch(what: str, gigabytes: float, *sources: str, messages: tuple[tuple[int, Rate], ...] = ()) -> _Machine:
    """Eight GPUs, each with all its NVLinks at NVSwitches, and a NIC beside each."""
    source, *more = sources
    return _Machine(
        what,
        8,
        ("nvswitch",),
        tuple((gpu, "nvswitch", _gigabytes(gigabytes)) for gpu in _gpus(8)),
        _gpus(8),
        _gpus(8),
        (f"{source}; the NVSwitches of a node are not blocking, so they are one switch here", *more),
        messages,
    )


def _on_one_root(what: str, count: int, *sources: str) -> _Machine:
    """GPUs with 16 lanes of PCIe 4.0 each at the root complex of one socket."""
    links = tuple((gpu, "root", PCIE_4) for gpu in _gpus(count))
    return _Machine(what, count, ("root",), links, ("root",), ("root",), (*sources, PCIE_4_SOURCE))


_MACHINES = {
    "nvlink-bridge": _Machine(
        "2 GPUs joined by an NVLink bridge (RTX A6000, A40, RTX 3090)",
        2,
        (),
        (("g0", "g1", _gigabytes(56.25)),),
        _gpus(2),
        _gpus(2),
        ("56.25 GB/s in each direction: NVIDIA, Ampere GA102 GPU Architecture white paper, NVLink 3",),
    ),
    "dgx-1": _dgx_1(),
    "dgx-a100": _on_nvswitch(
        "DGX A100: 8 x A100 SXM on NVSwitch",
        300,
        "600 GB/s a GPU, both directions together, over six NVSwitches: NVIDIA, A100 Tensor Core GPU Architecture "
        "white paper and A100 datasheet",
    ),
    "hgx-h100": _on_nvswitch(
        "HGX H100: 8 x H100 SXM on NVSwitch",
        450,
        "900 GB/s a GPU, both directions together, over four NVSwitches: NVIDIA, Introducing NVIDIA HGX H100",
        NVLINK_4_SOURCE,
        messages=NVLINK_4,
    ),
    "hgx-h200": _on_nvswitch(
        "HGX H200: 8 x H200 SXM on NVSwitch",
        450,
        "900 GB/s a GPU, both directions together, as the H100 has it: NVIDIA, H200 Tensor Core GPU datasheet",
        NVLINK_4_SOURCE,
        messages=NVLINK_4,
    ),
    "4xa10": _on_one_root(
        "4 x A10 on the PCIe root complex of one socket",
        4,
        f"{_PCIE_4}; the A10 has the same interface",
        "all four at one socket's root complex: github.com/aws/aws-ofi-nccl issue 466, of g5.12xlarge (A10G)",
    ),
    "4xl40s": _on_one_root(
        "4 x L40S on the PCIe root complex of one socket",
        4,
        "PCIe Gen4 x16, 64 GB/s both directions together, no NVLink: NVIDIA, L40S datasheet",
        "all four at one socket's root complex: assumed; machines differ, tokenring-xdit probe tells",
    ),
    "4x4090": _on_one_root(
        "4 x RTX 4090 on the PCIe root complex of one socket",
        4,
        "PCIe 4.0 x16, 32 GB/s in each direction, no NVLink: NVIDIA, Ada GPU Architecture white paper",
        "all four at one socket's root complex: assumed. NVIDIA's driver offers GeForce cards no P2P "
        "(github.com/NVIDIA/nccl-tests issue 117): what they send goes through the host's memory, and is slower",
    ),
    "8xmi300x": _Machine(
        "8 x MI300X, each joined to each by xGMI (Infinity Fabric)",
        8,
        (),
        _full_mesh(8, _gigabytes(64)),
        _gpus(8),
        _gpus(8),
        (
            "seven links a GPU, each 16 lanes of 32 Gbit/s, 128 GB/s both directions together: Wheeler's Network, "
            "'AMD Looks to Infinity for AI Interconnects' (wheelersnetwork.com, January 2024)",
        ),
    ),
    "8xascend-910b": _Machine(
        "8 x Ascend 910B, each joined to each by HCCS",
        8,
        (),
        _full_mesh(8, _gigabytes(28)),
        _gpus(8),
        _gpus(8),
        (
            "each joined to each: npu-smi info -t topo of an 8 x 910B machine; 392 GB/s a device, taken as both "
            "directions of seven links together: ArthurChiao, GPU notes 2, Ascend 910B (arthurchiao.art, 2023)",
        ),
    ),
}


PRESETS = tuple(_MACHINES)
"""Names of single nodes."""

_CONNECTX_6 = "ConnectX-6, HDR: 200 Gbit/s a port (NVIDIA, ConnectX-6 InfiniBand/Ethernet adapter cards user manual)"

FABRICS = {
    fabric.name: fabric
    for fabric in (
        Fabric(
            "ib-edr", Rate.parse("100gbit"), False, "EDR, as in a DGX-1: four 100 Gbit/s NICs (white paper WP-08437)"
        ),
        Fabric("ib-hdr", Rate.parse("200gbit"), False, _CONNECTX_6),
        Fabric(
            "ib-ndr",
            Rate.parse("400gbit"),
            False,
            "ConnectX-7, NDR: eight NICs of up to 400 Gbit/s in a DGX H100 (NVIDIA, DGX BasePOD)",
        ),
        Fabric("ethernet-10g", Rate.parse("10gbit"), True, "10 Gbit/s by name (IEEE 802.3ae)"),
        Fabric("ethernet-100g", Rate.parse("100gbit"), True, "100 Gbit/s by name (IEEE 802.3ba)"),
    )
}
"""What joins nodes, by name. Between NICs there is one switch that is not blocking."""


@cache
def find_preset(name: str) -> Preset | None:
    """The preset of a name, ``NODE`` or ``NODE*COUNT@FABRIC``; ``None`` where it does not look like one.

    Raises:
        ConfigurationError: It looks like one, and its node, count or fabric is none.
    """
    name = name.strip()
    if name in _MACHINES:
        machine = _MACHINES[name]
        network = Network(name, _gpus(machine.gpus), machine.switches, _links(machine), False, Counts.LINK)
        return Preset(name, machine.what, network, machine.sources)
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    node, count, fabric = found["node"], found["count"], found["fabric"]
    if node not in _MACHINES:
        raise ConfigurationError(f"topology {shown(name)}: {unknown('node', node, PRESETS)}")
    if fabric not in FABRICS:
        raise ConfigurationError(f"topology {shown(name)}: {unknown('fabric', fabric, FABRICS)}")
    number = Whole(MOST_NODES, least=2).read(count)
    if number is None:
        raise ConfigurationError(
            f"topology {shown(name)}: {shown(count)} is no number of nodes from 2 to {MOST_NODES}; a single node "
            f"is '{node}'"
        )
    if number * _MACHINES[node].gpus > MOST_NODES:
        raise ConfigurationError(
            f"topology {shown(name)}: {count} nodes of {_MACHINES[node].gpus} are more hosts than the {MOST_NODES} "
            "that are planned for"
        )
    return _joined(name, _MACHINES[node], number, FABRICS[fabric])


def load_topology(text: str) -> Network:
    """A network to plan for: a preset, a short form, the path of a YAML file, or this machine's GPUs (``nvidia-smi``).

    Raises:
        ConfigurationError: It is none of these, or describes something that cannot work.
    """
    preset = find_preset(text)
    if preset is not None:
        return preset.network
    if text == NVIDIA_SMI or text.lower().endswith(".txt"):
        return load_nvidia_smi(text)
    form = text.partition(":")[0]
    if ":" not in text and not text.lower().endswith((".yaml", ".yml")):
        raise ConfigurationError(
            f"{unknown('topology', text, PRESETS, like=form)} Also NODE*COUNT@FABRIC, as in "
            f"hgx-h100*4@ib-ndr, with a fabric of {', '.join(FABRICS)}; '{NVIDIA_SMI}' for this machine's GPUs, or a "
            f".txt file of what nvidia-smi topo -m printed; {EXAMPLES}"
        )
    return load_network(text)


def _links(machine: _Machine, prefix: str = "") -> tuple[Link, ...]:
    return tuple(Link(prefix + a, prefix + b, rate, rate, 0.0, machine.messages) for a, b, rate in machine.links)


def _joined(name: str, machine: _Machine, count: int, fabric: Fabric) -> Preset:
    """Nodes on one switch.

    A NIC is a switch of its own, and its links come after those inside the nodes: so the way over the fabric and back
    is never shorter than the one inside a node, nor is it the first of several equally short ones.
    """
    prefixes = [f"n{index}-" for index in range(count)]
    inside = [link for prefix in prefixes for link in _links(machine, prefix)]
    outside: list[Link] = []
    nics: list[str] = []
    rate = fabric.rate
    for prefix in prefixes:
        places = [machine.nic] if fabric.one_a_node else [(place,) for place in machine.nics]
        for index, place in enumerate(places):
            nic = f"{prefix}nic{index}"
            nics.append(nic)
            outside += [Link(prefix + node, nic, rate, rate) for node in place]
            outside.append(Link(nic, "fabric", rate, rate))

    def named(names: Iterable[str]) -> list[str]:
        return [prefix + each for prefix in prefixes for each in names]

    network = Network(
        name,
        tuple(named(_gpus(machine.gpus))),
        (*named(machine.switches), *nics, "fabric"),
        (*inside, *outside),
        False,
        Counts.LINK,
    )
    what = f"{count} nodes, {fabric.what} ({fabric.name}), each {machine.what}"
    return Preset(name, what, network, (*machine.sources, f"{fabric.name}: {fabric.source}"))
