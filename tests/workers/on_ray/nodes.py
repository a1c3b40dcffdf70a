"""A Ray cluster of two nodes on this machine, and what its ranks are told."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

MESSAGES = ()
"""Ranks of the tests of this folder are told texts."""

_PATIENCE = 300.0  # seconds

UNHURRIED = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # which else kills actors where others take the machine's memory
    "TOKENRING_RAY_WAIT": "600",  # its name is in a module that needs Ray
}
"""Variables for a machine on which other tests run as well."""


class TwoNodes:
    """The cluster.

    Attributes:
        address: Of its head.
        other: Its second node.
    """

    def __init__(self, cores: int) -> None:
        from ray.cluster_utils import Cluster

        self._node: dict[str, Any] = {"num_cpus": cores, "object_store_memory": 80 * 2**20}
        self._cluster = Cluster()
        self._add(include_dashboard=False)
        self.address = self._cluster.address
        self.other: Any = self._add()

    def lose(self) -> None:
        """Have the second node die."""
        self._cluster.remove_node(self.other, allow_graceful=False)

    def bring_back(self) -> None:
        """Start a second node again."""
        self.other = self._add()

    def close(self) -> None:
        """End everything."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def _add(self, **options: Any) -> Any:
        return self._cluster.add_node(**self._node, **options)


def _patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray gives a node 30 s to start, asking again and again; a busy machine takes longer."""

    def waits(*args: Any, **options: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return get_node(*args, **options)
            except RuntimeError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)

    return waits


@contextmanager
def two_nodes(cores: int, **environment: str) -> Iterator[TwoNodes]:
    """A cluster whose nodes find this package and these tests.

    Args:
        cores: Of each node.
        environment: Variables of all its processes.
    """
    pytest.importorskip("ray", reason="Ray comes with the extra 'ray'")
    services = importlib.import_module("ray._private.services")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "get_node", _patient(services.get_node))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        for name, value in {**UNHURRIED, **environment}.items():
            patch.setenv(name, value)
        nodes = TwoNodes(cores)
        try:
            yield nodes
        finally:
            nodes.close()
