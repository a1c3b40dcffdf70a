"""Measures what joins ranks: every pair alone, both ways, and many at once. ``docs/topologies.md`` is the guide.

:mod:`~tokenring_xdit.lab.probe.station` is a rank's share, :mod:`~tokenring_xdit.lab.probe.driver` gives the orders,
:mod:`~tokenring_xdit.bench.crew` and :mod:`~tokenring_xdit.lab.probe.world` find the ranks;
:mod:`tokenring_xdit.lab.probe.infer` tells what the figures mean.
"""

from tokenring_xdit.lab.probe.driver import Probed, probe
from tokenring_xdit.lab.probe.world import World

__all__ = ["Probed", "World", "probe"]
