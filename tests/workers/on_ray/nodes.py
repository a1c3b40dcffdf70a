"""A Ray cluster of two nodes on this machine, and what its ranks are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

MESSAGES = ()
"""Ranks of the tests of this folder are told texts."""

_ATTEMPTS = 5  # Ray gives a node 30 s to start, which a busy machine may not be able to


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
        for left in reversed(range(_ATTEMPTS)):
            try:
                return self._cluster.add_node(**self._node, **options)
            except Exception as error:  # Ray raises no other
                if not left or "timed out during startup" not in str(error):
                    raise
        return None


@contextmanager
def two_nodes(cores: int) -> Iterator[TwoNodes]:
    """A cluster whose nodes find this package and these tests."""
    pytest.importorskip("ray", reason="Ray comes with the extra 'ray'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = TwoNodes(cores)
        try:
            yield nodes
        finally:
            nodes.close()
