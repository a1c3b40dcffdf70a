"""A replica of a server on Ray Serve."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.serve.client import GENERATIONS, Answer, Client
from tests.serve.servers import until
from tests.support.commands import free_port
from tests.workers.on_ray.nodes import two_nodes
from tokenring_xdit.errors import ConfigurationError

pytestmark = [pytest.mark.e2e, pytest.mark.matrix]

BODY: dict[str, Any] = {"prompt": "a red circle", "size": "64x64", "steps": 2, "seed": 1}
ARGUMENTS = {"model": "embedded", "values": ["tokenring_degree=2"]}


def drawn(client: Client) -> Answer:
    return client.ask("POST", GENERATIONS, BODY)


def test_a_replica_draws_and_refuses_as_a_server_does() -> None:
    serve = pytest.importorskip("ray.serve", reason="Ray Serve comes with the extra 'ray'")
    ray = pytest.importorskip("ray")
    from tokenring_xdit.serve.ray_app import build

    # Ray gives a proxy five seconds to start, which a busy machine may not be able to.
    patient = dict.fromkeys(("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"), "120")
    with two_nodes(3, **patient) as nodes:
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
        serve.run(build(ARGUMENTS))
        try:
            until(lambda: client.ask("GET", "/ready").status == 200)
            first = drawn(client)
            assert first.status == 200
            assert base64.b64decode(first.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
            assert drawn(client).json["data"] == first.json["data"]
            assert client.ask("POST", GENERATIONS, {**BODY, "x": 1}).error["code"] == "unknown_field"
        finally:
            serve.shutdown()
