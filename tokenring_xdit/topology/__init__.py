"""Which device is linked to which, how fast, and what follows from it. Pure Python, like the schedules."""

from tokenring_xdit.topology.files import load_network, network_to_mapping, network_to_yaml
from tokenring_xdit.topology.network import EXAMPLES, FRAME_SHARE, Counts, Network, Rate, Wire, parse_network

__all__ = [
    "EXAMPLES",
    "FRAME_SHARE",
    "Counts",
    "Network",
    "Rate",
    "Wire",
    "load_network",
    "network_to_mapping",
    "network_to_yaml",
    "parse_network",
]
