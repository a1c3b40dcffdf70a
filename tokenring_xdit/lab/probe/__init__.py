"""Measures what joins ranks: every pair alone, both ways, and many at once. ``docs/topologies.md`` is the guide.

:mod:`~tokenring_xdit.lab.probe.rank` is what a rank does, :mod:`~tokenring_xdit.lab.probe.driver` gives the commands;
:mod:`tokenring_xdit.lab.probe.infer` tells what the figures mean.
"""

from tokenring_xdit.lab.probe.driver import Probed, probe

__all__ = ["PROBE", "Probed", "probe"]

PROBE = "tokenring_xdit.lab.probe.rank"
"""What the ranks of a probe serve."""
