"""What a placement group that is given says of its ranks; no cluster is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray comes with the extra 'ray'")

from tokenring_xdit.workers.on_ray import cluster


@pytest.mark.parametrize("resources", [{"CPU": 16.0}, {"CPU": 16.0, "GPU": 4.0}])
@pytest.mark.parametrize("unit", ["CPU", "GPU"])
def test_ranks_take_what_their_bundles_have_whatever_the_cluster_has(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], unit: str
) -> None:
    monkeypatch.setattr(cluster, "_connect", lambda where: None)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    bundles = [{"CPU": 1.0}, {unit: 1.0}, {unit: 1.0}]
    group: Any = SimpleNamespace(bundle_specs=bundles, bundle_count=len(bundles))
    found = cluster.RayCluster(group, "tests.workers.on_ray.nodes", ranks=2)
    assert found.gpus is (unit == "GPU")
