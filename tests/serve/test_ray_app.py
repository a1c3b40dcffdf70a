"""Replicas of a server on Ray Serve: they draw the same, and requests go on where one is killed."""

from __future__ import annotations

import base64
import os
import signal
import socket
from typing import Any

import psutil
import pytest

from tests.serve.client import GENERATIONS, Answer, Client
from tests.serve.servers import until
from tests.workers.on_ray.nodes import two_nodes
from tokenring_xdit.errors import ConfigurationError

pytestmark = [pytest.mark.e2e, pytest.mark.matrix]

BODY: dict[str, Any] = {"prompt": "a red circle", "size": "64x64", "steps": 2, "seed": 1}
ARGUMENTS = {"model": "embedded", "values": ["tokenring_degree=2"]}


def replicas() -> list[psutil.Process]:
    """The processes of replicas, by Ray's title of them."""
    found = [each for each in psutil.process_iter(["cmdline", "ppid"]) if each.info["cmdline"]]
    return [each for each in found if each.info["cmdline"][0].startswith("ray::ServeReplica:")]


def drawn(client: Client) -> Answer:
    return client.ask("POST", GENERATIONS, BODY)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_requests_go_on_when_a_replica_is_killed() -> None:
    serve = pytest.importorskip("ray.serve", reason="Ray Serve comes with the extra 'ray'")
    ray = pytest.importorskip("ray")
    from tokenring_xdit.serve.ray_app import build, deployed

    with two_nodes(3) as nodes:
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
        for arguments, said in (
            ({**ARGUMENTS, "port": 1}, "args: 'port' is unknown"),
            ({"values": []}, "say either 'config' or 'model'"),
            ({**ARGUMENTS, "values": ["ray=auto"]}, "leave it out"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                build(arguments)
        client = Client(free_port())
        serve.start(http_options={"host": "127.0.0.1", "port": client.port})
        deployment, *initial = deployed(ARGUMENTS)
        serve.run(deployment.options(num_replicas=2).bind(*initial))
        try:
            until(lambda: client.ask("GET", "/ready").status == 200)
            first = drawn(client)
            assert first.status == 200
            assert base64.b64decode(first.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
            mine = {each.pid: each for each in replicas()}
            assert len(mine) == 2
            assert {node["Alive"] for node in ray.nodes()} == {True}
            os.kill(next(iter(mine)), signal.SIGKILL)
            until(lambda: drawn(client).status == 200)
            until(lambda: len(replicas()) == 2 and {each.pid for each in replicas()} != set(mine))
            assert [drawn(client).json["data"] for _ in range(4)] == [first.json["data"]] * 4
        finally:
            serve.shutdown()
    assert not replicas()
