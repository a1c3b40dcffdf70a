"""Replicas of a server on a Ray cluster: ``serve deploy deploy/ray/serve.yaml``, or ``serve run`` of the same file.

Each replica is a server as ``tokenring-xdit serve`` starts one, with an engine whose ranks are in the replica's own
placement group. Ray Serve routes, restarts and adds replicas, as its file says.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.util import get_current_placement_group

from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.keys import KEY_VARIABLE, checked_key
from tokenring_xdit.serve.config import AnyServeConfig, RequestLimits, ServeConfig, films, serve_schema, unserved
from tokenring_xdit.serve.engine_owner import ServiceState
from tokenring_xdit.serve.service import Service

__all__ = ["ServiceReplica", "build", "deployed"]

log = logging.getLogger(__name__)

_ARGUMENTS = ("config", "model", "values", "device", "timeout", "waiting")
_UNITS = {"gpu": "GPU", "cpu": "CPU"}
_TIMEOUT = 1800.0  # seconds
_GRACE = 5.0  # seconds
_LOOK = 0.1  # seconds
_AT_ONCE = 4
"""HTTP requests for each that may be served or wait: also cancelling, probes and metrics are to get through."""


class ServiceReplica:
    """One server, which is there once its model is loaded.

    Args:
        config: What it serves.
        limits: What a request may ask for.
        timeout: Seconds without a sign of life from the ranks.
    """

    def __init__(self, config: AnyServeConfig, limits: RequestLimits, timeout: float) -> None:
        key = checked_key(os.environ.get(KEY_VARIABLE))
        if key is None:
            log.warning("without %s on this node, anyone who reaches its proxy may send requests", KEY_VARIABLE)
        self._ended = threading.Event()
        self._service = Service(
            config,
            limits,
            key=key,
            timeout=timeout,
            on_broken=self._ended.set,
            ray=get_current_placement_group(),
        )
        self._service.start()
        while self._service.owner.state is ServiceState.LOADING:  # which the engine's limits end
            self._ended.wait(_LOOK)
        self.check_health()

    def __serve_build_asgi_app__(self) -> Any:
        """The application, as Ray Serve asks for it."""
        return self._service.app

    def check_health(self) -> None:
        """Whether this replica can go on; Ray Serve starts another one where not.

        Raises:
            TokenRingError: It cannot.
        """
        if self._service.owner.error is not None:
            raise self._service.owner.error

    def __del__(self) -> None:
        if hasattr(self, "_service"):
            self._service.stop(_GRACE)


def build(arguments: Mapping[str, Any]) -> Any:
    """The application of a file for Ray Serve.

    Args:
        arguments: Its ``args``: ``config``, a file on all nodes, or ``model``; ``values``, a list of ``key=value``;
            ``device`` of a rank, ``gpu`` or ``cpu``; ``timeout``; ``waiting``, requests that may wait in a replica.
            Without ``device`` it is the GPU where the cluster has any when this is called.

    Raises:
        ConfigurationError: They say no model that can be served so.
    """
    deployment, *initial = deployed(arguments)
    return deployment.bind(*initial)


def deployed(arguments: Mapping[str, Any]) -> tuple[Any, AnyServeConfig, RequestLimits, float]:
    """The deployment of :func:`build`, and what its replicas are made of."""
    unknown = [name for name in arguments if name not in _ARGUMENTS]
    if unknown:
        raise ConfigurationError(f"args: '{unknown[0]}' is unknown; known: {', '.join(_ARGUMENTS)}")
    if ("config" in arguments) == ("model" in arguments):
        raise ConfigurationError("args: say either 'config' or 'model'")
    path = Path(arguments["config"]) if "config" in arguments else None
    values = [*([] if path else [f"model={arguments['model']}"]), *arguments.get("values", [])]
    config: AnyServeConfig = read_config(serve_schema, path, values, unserved)
    if config.ray is not None:
        raise ConfigurationError(f"ray: '{config.ray}': replicas of Ray Serve are in its cluster: leave it out")
    if isinstance(config, ServeConfig) and films(config):
        raise ConfigurationError(
            f"'{config.name}' makes videos, which are jobs of one replica that another one does not know: serve it "
            "with 'tokenring-xdit serve --ray auto'"
        )
    unit = _unit(arguments.get("device"))
    limits = RequestLimits(waiting=int(arguments.get("waiting", RequestLimits.waiting)))
    most = _AT_ONCE * (limits.waiting + 1)  # the queue is bounded by the replica, which answers 429
    deployment = serve.deployment(serve.ingress()(ServiceReplica)).options(
        name=ServiceReplica.__name__,
        ray_actor_options={"num_cpus": 1},
        placement_group_bundles=[{"CPU": 1}, *[{unit: 1}] * config.degrees.ranks],
        placement_group_strategy="PACK",
        max_ongoing_requests=most,
        max_queued_requests=most,
    )
    return deployment, config, limits, float(arguments.get("timeout", _TIMEOUT))


def _unit(device: Any) -> str:
    """The resource of which a rank takes one."""
    if device is None:
        return "GPU" if ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"
    if device not in _UNITS:
        raise ConfigurationError(f"args: device is {device!r}; it has to be 'gpu' or 'cpu'")
    return _UNITS[device]
