"""Which device is linked to which, how fast, and what follows from it. Pure Python, like the schedules."""

from tokenring_xdit.topology.network import EXAMPLES, Network, Rate, Wire, load_network, parse_network

__all__ = ["EXAMPLES", "Network", "Rate", "Wire", "load_network", "parse_network"]
