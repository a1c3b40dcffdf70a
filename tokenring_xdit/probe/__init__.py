"""Measures what joins ranks: every pair alone, both ways, and many at once. ``docs/topologies.md`` is the guide.

:mod:`~tokenring_xdit.probe.rank` is what a rank does, :mod:`~tokenring_xdit.probe.driver` gives the commands;
:mod:`tokenring_xdit.probe.infer` tells what the figures mean.
"""

from tokenring_xdit.probe.driver import Probed, probe

__all__ = ["PROBE", "Probed", "probe"]

PROBE = "tokenring_xdit.probe.rank"
"""What the ranks of a probe serve."""
