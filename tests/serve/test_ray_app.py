"""Replicas of a server on Ray Serve."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from tests.scripts.support import ROOT
from tests.serve.client import GENERATIONS, Answer, Client, pixels
from tests.serve.servers import until
from tests.support.commands import free_port
from tests.workers.on_ray.nodes import two_nodes
from tokenring_xdit import Engine
from tokenring_xdit.errors import ConfigurationError

pytestmark = [pytest.mark.e2e, pytest.mark.matrix]

BODY: dict[str, Any] = {"prompt": "a red circle", "size": "64x64", "steps": 2, "seed": 1}
ARGUMENTS = {"model": "embedded", "values": ["tokenring_degree=2", "forecasts=none"]}


def drawn(client: Client) -> Answer:
    return client.ask("POST", GENERATIONS, BODY)


@contextmanager
def cluster() -> Iterator[Client]:
    """Two nodes of three cores, with the proxy of Ray Serve, and who asks it."""
    serve = pytest.importorskip("ray.serve", reason="Ray Serve comes with the extra 'ray'")
    ray = pytest.importorskip("ray")
    # Ray gives a proxy five seconds to start, which a busy machine may not be able to.
    patient = dict.fromkeys(("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"), "120")
    with two_nodes(3, **patient) as nodes:
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
        client = Client(free_port())
        serve.start(http_options={"host": "127.0.0.1", "port": client.port})
        try:
            yield client
        finally:
            serve.shutdown()


def test_a_replica_draws_and_refuses_as_a_server_does() -> None:
    with cluster() as client:
        from ray import serve

        from tokenring_xdit.serve.ray_app import build

        for arguments, said in (
            ({**ARGUMENTS, "port": 1}, "args: 'port' is unknown"),
            ({"values": []}, "say either 'config' or 'model'"),
            ({**ARGUMENTS, "values": ["ray=auto"]}, "leave it out"),
            ({**ARGUMENTS, "device": "tpu"}, "device is 'tpu'; it has to be 'gpu' or 'cpu'"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                build(arguments)
        serve.run(build(ARGUMENTS))
        until(lambda: client.ask("GET", "/ready").status == 200)
        first = drawn(client)
        assert first.status == 200
        assert base64.b64decode(first.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
        assert drawn(client).json["data"] == first.json["data"]
        assert client.ask("POST", GENERATIONS, {**BODY, "x": 1}).error["code"] == "unknown_field"


def replicas() -> list[psutil.Process]:
    """Processes of replicas that have loaded their model: their ranks are processes of actors of their own."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith("ray::ServeReplica") and process.username() == psutil.Process().username():
            found.append(process)
    return found


def test_one_of_two_replicas_is_killed_and_requests_go_on() -> None:
    (application,) = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())["applications"]
    (options,) = application["deployments"]
    options = {**options, "autoscaling_config": {"min_replicas": 2, "max_replicas": 2}, "health_check_period_s": 1}
    with Engine("embedded", tokenring_degree=2) as engine:
        picture = engine.generate(BODY["prompt"], width=64, height=64, steps=2, seed=1, progress=False)[0]
    before = {process.pid for process in replicas()}  # of whoever else uses this machine
    with cluster() as client:
        from ray import serve

        from tokenring_xdit.serve.ray_app import deployed

        def running() -> int:
            states = serve.status().applications["default"].deployments["ServiceReplica"].replica_states
            return int(states.get("RUNNING", 0))

        deployment, *initial = deployed(ARGUMENTS)
        serve.run(deployment.options(**options).bind(*initial))
        until(lambda: running() == 2)
        ours = [process for process in replicas() if process.pid not in before]
        assert len(ours) == 2
        assert np.array_equal(pixels(drawn(client).json["data"][0]["b64_json"]), np.asarray(picture))
        ours[0].kill()
        said: list[int] = []
        while not said or running() < 2 or 200 not in said or ours[0].is_running():
            try:
                answer = drawn(client)
            except (OSError, http.client.HTTPException):
                said.append(0)
                continue
            said.append(answer.status)
            if answer.status == 200:
                assert np.array_equal(pixels(answer.json["data"][0]["b64_json"]), np.asarray(picture))
        print(f"answers until the replica was back: {said}")
        went_on = said[said.index(200) :]
        assert set(went_on) == {200}  # what was not on its way to the one that was killed
        assert len(said) - len(went_on) <= 2
        after = {process.pid for process in replicas()} - before
        assert len(after) == 2 and ours[0].pid not in after
