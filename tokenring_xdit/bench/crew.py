"""The ranks of a sweep or a probe: on this machine's loopback, or in an emulated network."""

from __future__ import annotations

import os

from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE
from tokenring_xdit.lab.network import EmulatedNetwork, rank_variables
from tokenring_xdit.workers.crew import Crew
from tokenring_xdit.workers.environment import rank_environment

__all__ = ["start_crew"]


def start_crew(ranks: int, emulated: EmulatedNetwork | None = None, module: str = "tokenring_xdit.bench.rank") -> Crew:
    """Start ranks.

    Args:
        ranks: How many.
        emulated: The network that they run in, rank ``r`` at host ``r``; ``None`` for this machine's loopback.
        module: What each of them runs.

    Raises:
        LaunchError: They could not be started.
    """
    if emulated is None:
        return Crew(module, ranks)
    inside = emulated

    def environment(rank: int, count: int, init_method: str) -> dict[str, str]:
        own = rank_variables(inside, rank, count, init_method)
        return {**rank_environment(count), **os.environ, **own, TOPOLOGY_VARIABLE: inside.network.name}

    def before(rank: int) -> list[str]:
        return inside.inside(inside.network.hosts[rank], [])

    return Crew(module, ranks, environment=environment, before=before)
