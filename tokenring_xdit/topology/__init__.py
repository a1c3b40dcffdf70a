"""Which device is linked to which, how fast, and what follows from it. Pure Python, like the schedules."""

from tokenring_xdit.topology.files import load_network, network_to_mapping, network_to_yaml
from tokenring_xdit.topology.links import FRAME_SHARE, Counts, Link, Rate
from tokenring_xdit.topology.network import EXAMPLES, Network, parse_network
from tokenring_xdit.topology.presets import FABRICS, PRESETS, Preset, find_preset, load_topology

__all__ = [
    "EXAMPLES",
    "FABRICS",
    "FRAME_SHARE",
    "PRESETS",
    "Counts",
    "Link",
    "Network",
    "Preset",
    "Rate",
    "find_preset",
    "load_network",
    "load_topology",
    "network_to_mapping",
    "network_to_yaml",
    "parse_network",
]
