"""The files of ``deploy`` for containers, Kubernetes and Ray, as far as no cluster is needed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.scripts.support import ROOT, image_stages
from tokenring_xdit.cli.commands import read_command
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.keys import KEY_VARIABLE, checked_key
from tokenring_xdit.serve.config import RequestLimits, ServeConfig

DEPLOY = ROOT / "deploy"
IMAGE = "tokenring-xdit-serve"


def parts(kind: str, path: str) -> dict[str, Any]:
    """The part of a manifest that is of a kind."""
    (found,) = (each for each in yaml.safe_load_all((DEPLOY / path).read_text()) if each["kind"] == kind)
    return dict(found)


def config_of(words: list[str]) -> ServeConfig:
    return read_config(ServeConfig, ROOT / words[0])


def test_the_image_of_the_service_is_that_of_runs_with_what_a_server_needs() -> None:
    """Which another test builds the package for."""
    stages = image_stages()
    assert set(stages) == {"package", "run", "serve"}
    assert not any(words[0] == "COPY" for stage in ("run", "serve") for words in stages[stage])
    assert stages["serve"][0][1:5] == ["pip", "install", "--no-cache-dir", "/opt/tokenring-xdit[serve,ray,gpu]"]
    assert ["ENTRYPOINT", "[tokenring-xdit,", "serve]"] in stages["serve"]


def test_kubernetes_starts_a_server_that_its_command_line_takes_and_asks_whether_it_is_ready() -> None:
    pod = parts("Deployment", "kubernetes/serve.yaml")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    said = read_command(["serve", *container["args"]])
    assert (said.host, said.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert container["image"] == IMAGE
    assert container["resources"]["limits"]["nvidia.com/gpu"] == config_of(container["args"]).degrees.ranks
    assert [each["name"] for each in container["env"]] == [KEY_VARIABLE]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/live"}
    assert said.grace < pod["spec"]["terminationGracePeriodSeconds"]
    service = parts("Service", "kubernetes/serve.yaml")["spec"]
    assert service["selector"] == pod["metadata"]["labels"]


def test_kuberay_serves_what_the_file_for_ray_says() -> None:
    ray = yaml.safe_load((DEPLOY / "ray/serve.yaml").read_text())
    service = parts("RayService", "ray/rayservice.yaml")["spec"]
    ours = yaml.safe_load(service["serveConfigV2"])
    assert ours["http_options"].pop("host") == "0.0.0.0"
    assert ray["http_options"].pop("host") == "127.0.0.1"
    assert ours == ray
    (application,) = ray["applications"]
    inside = application["args"]["config"].removeprefix("/opt/tokenring-xdit/")
    (group,) = service["rayClusterConfig"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["image"] == IMAGE
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == config_of([inside]).degrees.ranks
    (deployment,) = application["deployments"]
    places = application["args"]["waiting"] + 1
    assert deployment["max_ongoing_requests"] == deployment["max_queued_requests"] >= 2 * places
    assert group["maxReplicas"] == deployment["autoscaling_config"]["max_replicas"]


def test_ray_serve_takes_the_file() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="Ray Serve comes with the extra 'ray'")
    read = schema.ServeDeploySchema.parse_obj(yaml.safe_load((DEPLOY / "ray/serve.yaml").read_text()))
    (application,) = read.applications
    module, _, name = application.import_path.partition(":")
    assert (module, name) == ("tokenring_xdit.serve.ray_app", "build")
    app = pytest.importorskip(module)
    assert application.deployments[0].name == app.ServiceReplica.__name__
    assert set(application.args) <= set(app._ARGUMENTS)
    assert application.args["device"] == "gpu"


@pytest.mark.parametrize(("device", "unit"), [("gpu", "GPU"), ("cpu", "CPU")])
def test_replicas_wait_for_what_the_file_says_and_not_for_what_the_cluster_has_now(device: str, unit: str) -> None:
    app = pytest.importorskip("tokenring_xdit.serve.ray_app", reason="Ray Serve comes with the extra 'ray'")
    deployment, *_ = app.deployed({"model": "embedded", "values": ["tokenring_degree=2"], "device": device})
    assert deployment._replica_config.placement_group_bundles == [{"CPU": 1}, {unit: 1}, {unit: 1}]


def test_a_replica_takes_a_key_as_the_command_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (checked_key("sesame\n"), checked_key(None)) == ("sesame", None)
    for unsayable in ("open\nsesame", "\udcff", "\x00"):
        with pytest.raises(ConfigurationError, match="a line break or another character that is not printed"):
            checked_key(unsayable)
    app = pytest.importorskip("tokenring_xdit.serve.ray_app", reason="Ray Serve comes with the extra 'ray'")
    monkeypatch.setenv(KEY_VARIABLE, "\n")
    with pytest.raises(ConfigurationError, match="the API key is empty"):
        app.ServiceReplica(ServeConfig(model="embedded", prompt="a"), RequestLimits(), 1.0)
