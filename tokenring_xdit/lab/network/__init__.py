"""Networks that exist on this machine only, with real sockets and real limits: to run and to measure ranks in.

:mod:`tokenring_xdit.topology` describes them, :mod:`~tokenring_xdit.lab.network.emulate` builds and
removes them, :mod:`~tokenring_xdit.lab.network.selftest` measures them, :mod:`~tokenring_xdit.lab.network.ranks`
runs ranks inside. ``docs/network.md`` is the guide.
"""

from tokenring_xdit.lab.network.emulate import INTERFACE, EmulatedNetwork, emulate, remove_stale
from tokenring_xdit.lab.network.ranks import INIT_METHOD_VARIABLE, RankOutput, rank_variables, run_ranks
from tokenring_xdit.lab.network.selftest import LinkFigure, LinkReport, NetworkReport, refuse_slow, self_test
from tokenring_xdit.topology import Link, Network, Rate, load_network, parse_network

__all__ = [
    "INIT_METHOD_VARIABLE",
    "INTERFACE",
    "EmulatedNetwork",
    "Link",
    "LinkFigure",
    "LinkReport",
    "Network",
    "NetworkReport",
    "RankOutput",
    "Rate",
    "emulate",
    "load_network",
    "parse_network",
    "rank_variables",
    "refuse_slow",
    "remove_stale",
    "run_ranks",
    "self_test",
]
