"""Schedules by their traits, so that tests of all of them take in a new one."""

from __future__ import annotations

from tokenring_xdit.schedule import ALGORITHMS, Mask


def names(mask: Mask = Mask.FULL, *, any_ranks: bool = False) -> list[str]:
    """Schedules for a mask; those for any number of ranks only, or the ones as well that nodes have to divide."""
    return [n for n, a in ALGORITHMS.items() if mask in a.masks and not (any_ranks and a.across_nodes)]


INSIDE = [name for name, algorithm in ALGORITHMS.items() if algorithm.inside_nodes]
"""Schedules that can run inside a node."""

OWN_MASKS = [
    (name, Mask.FULL if Mask.FULL in algorithm.masks else Mask.CAUSAL) for name, algorithm in ALGORITHMS.items()
]
"""Every schedule, with the mask of the plan that it writes."""

EVERY_MASK = [(name, mask) for name, algorithm in ALGORITHMS.items() for mask in Mask if mask in algorithm.masks]
"""Every schedule, with each mask that it is for."""
