"""Worlds of ranks on a Ray cluster: one placement group, in which they are started again and again."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tokenring_xdit import liveness
from tokenring_xdit.errors import ConfigurationError, LaunchError
from tokenring_xdit.workers.on_ray.actor import ANSWERS, RankActor, version
from tokenring_xdit.workers.on_ray.rank import ActorRank
from tokenring_xdit.workers.on_ray.seats import Seat, carried_over, cluster_name, in_order, variables
from tokenring_xdit.workers.starting import Inbox, Packing, RankStarter, WorldPlace
from tokenring_xdit.workers.wire import Wire

__all__ = ["WAIT_VARIABLE", "RayCluster"]

log = logging.getLogger(__name__)

WAIT_VARIABLE = "TOKENRING_RAY_WAIT"
"""Environment variable: seconds for which resources and nodes of the cluster are waited for."""

_WAIT = 120.0
_LOOK = 0.25
_SECONDS_TO_CONNECT = 10.0


class RayCluster(WorldPlace):
    """The placement group of an engine, a bundle a rank, and what is started in it.

    Args:
        where: ``auto``, ``HOST:PORT`` of the cluster's head, or a placement group, whose last bundles are taken.
        module: Names the messages of ranks; see :class:`~tokenring_xdit.workers.wire.Wire`.
        ranks: Ranks of each world.
        worlds: How many of these.
        ulysses: Size of the Ulysses groups.

    Attributes:
        gpus: Whether ranks have a GPU each; else a core. A given group says so, as its cluster may get GPUs later.
        cluster: As of :class:`WorldPlace`.

    Raises:
        ConfigurationError: There is no such cluster, or it is too small.
    """

    def __init__(self, where: Any, module: str, *, ranks: int, worlds: int = 1, ulysses: int = 1) -> None:
        self.packing: Packing = Wire(module)
        self.ulysses = ulysses
        self.closed = threading.Event()
        self._ranks, self._worlds = ranks, worlds
        self._addresses: dict[int, str] = {}  # of the nodes of bundles, as they were last
        liveness.seconds_from(WAIT_VARIABLE, _WAIT)
        given = None if isinstance(where, str) else where
        _connect(where if given is None else "auto")
        resources = ray.cluster_resources()
        self.gpus = resources.get("GPU", 0) >= 1 if given is None else _have_gpus(given.bundle_specs[-ranks * worlds :])
        self.cluster = cluster_name(ray.get_runtime_context().gcs_address, resources)
        self._unit = "GPU" if self.gpus else "CPU"
        self._own = given is None
        if given is None:
            self._refuse_too_few(resources)
            given = placement_group([{self._unit: 1}] * (ranks * worlds), strategy="PACK")
        elif given.bundle_count < ranks * worlds:
            raise ConfigurationError(
                f"{ranks * worlds} ranks were asked for, and the placement group has {given.bundle_count} bundles"
            )
        self._group = given
        self._first = given.bundle_count - ranks * worlds  # before them may be those of whoever starts them

    def world(self, replica: int) -> _RayStarter:
        """As :meth:`WorldPlace.world`."""
        first = self._first + replica * self._ranks
        return _RayStarter(self, range(first, first + self._ranks))

    def hang_up(self) -> None:
        """As :meth:`WorldPlace.hang_up`."""
        self.closed.set()

    def close(self) -> None:
        """Give the placement group back, unless it was given; the connection stays, as others may use it."""
        if self._own and ray.is_initialized():
            remove_placement_group(self._group)

    def placed(self, bundles: Sequence[int], deadline: float) -> dict[int, str]:
        """Wait until Ray has found a place for bundles.

        Returns:
            Names of their nodes.

        Raises:
            LaunchError: It has none in time.
        """
        while True:
            table = placement_group_table(self._group)
            where: dict[int, str] = table["bundles_to_node_id"]
            alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
            missing = [bundle for bundle in bundles if where.get(bundle) not in alive]
            if not missing and table["state"] == "CREATED":
                self._addresses |= {bundle: alive[where[bundle]] for bundle in bundles}
                return {bundle: where[bundle] for bundle in bundles}
            if table["state"] == "REMOVED":
                raise LaunchError("the placement group of this engine was removed: make a new engine")
            self.refuse_late(deadline, self._nobody(missing))
            time.sleep(_LOOK)

    def refuse_late(self, deadline: float, why: str) -> None:
        """Raise where the engine was closed, or it is too late."""
        if self.closed.is_set():
            raise LaunchError("the engine was closed while its ranks were started")
        if time.monotonic() >= deadline:
            raise LaunchError(why)

    def silent(self, bundles: Sequence[int]) -> str:
        """What is said of actors that do not answer."""
        nodes = ", ".join(sorted({self._addresses[bundle] for bundle in bundles}))
        return (
            f"{len(bundles)} of the ranks did not start on {nodes} within "
            f"{liveness.seconds_from(WAIT_VARIABLE, _WAIT):g} s ({WAIT_VARIABLE})"
        )

    def actor(self, bundle: int) -> Any:
        """An actor in a bundle."""
        remote = ray.remote(
            num_cpus=0 if self.gpus else 1,
            num_gpus=1 if self.gpus else 0,
            max_restarts=0,
            concurrency_groups={ANSWERS: 1},
        )(RankActor)
        return remote.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=self._group, placement_group_bundle_index=bundle
            ),
        ).remote()

    def _nobody(self, missing: Sequence[int]) -> str:
        seconds = f"within {liveness.seconds_from(WAIT_VARIABLE, _WAIT):g} s ({WAIT_VARIABLE})"
        known = sorted({self._addresses[bundle] for bundle in missing if bundle in self._addresses})
        if known:
            nodes = f"node{'s' * (len(known) > 1)} {', '.join(known)}"
            return f"{nodes} did not come back {seconds}: Ray has no place for {len(missing)} of the ranks"
        return f"Ray found no place for {len(missing)} ranks of a {self._unit} each {seconds}: others use them"

    def _refuse_too_few(self, resources: Mapping[str, float]) -> None:
        asked = self._ranks * self._worlds
        if resources.get(self._unit, 0) < asked:
            raise ConfigurationError(
                f"{asked} ranks were asked for, and the Ray cluster has {resources.get(self._unit, 0):g} {self._unit}s"
            )


class _RayStarter(RankStarter):
    """Starts a world in some bundles of a cluster."""

    def __init__(self, cluster: RayCluster, bundles: Sequence[int]) -> None:
        self.packing = cluster.packing
        self._cluster, self._bundles = cluster, bundles

    def start(self, program: str, ranks: int, inbox: Inbox) -> Iterator[ActorRank]:
        """As :meth:`RankStarter.start`."""
        deadline = time.monotonic() + liveness.seconds_from(WAIT_VARIABLE, _WAIT)
        while True:
            self._cluster.placed(self._bundles, deadline)
            actors = {bundle: self._cluster.actor(bundle) for bundle in self._bundles}
            try:
                started = self._started(actors, program, deadline)
            except RayActorError as error:  # a node that was about to be found dead
                _end(actors)
                if "creation task" in str(error):
                    raise LaunchError(f"a node cannot run ranks: {_last_line(error)}") from error
                log.warning("ranks were lost while they were started: %s", _last_line(error))
                self._cluster.refuse_late(deadline, f"ranks were lost while they were started: {_last_line(error)}")
                time.sleep(_LOOK)
            except BaseException as error:
                _end(actors)
                if isinstance(error, RayTaskError):
                    raise LaunchError(f"a rank could not be started: {_last_line(error)}") from error
                raise
            else:
                break
        for rank, (seat, pid) in enumerate(started):
            yield ActorRank(rank, seat.address, pid, actors[seat.bundle], self.packing, inbox)

    def _started(self, actors: Mapping[int, Any], program: str, deadline: float) -> list[tuple[Seat, int]]:
        asked = {bundle: actor.about.remote() for bundle, actor in actors.items()}
        told = dict(zip(asked, self._answers(list(asked.values()), list(asked), deadline), strict=True))
        seats = []
        for bundle, about in told.items():
            if about["version"] != version():
                raise LaunchError(
                    f"node {about['address']} has {about['version']}, and this process {version()}: install the same"
                )
            seats.append(Seat(bundle, about["node"], about["address"], tuple(about["gpus"]), about["links"]))
        seats = in_order(seats, self._cluster.ulysses)
        bundles = [seat.bundle for seat in seats]
        (port,) = self._answers([actors[bundles[0]].listen.remote()], bundles[:1], deadline)
        carried = carried_over(os.environ)
        starts = [
            actors[seat.bundle].start.remote(
                rank, program, self.packing.name, {**carried, **variables(seats, rank, port)}
            )
            for rank, seat in enumerate(seats)
        ]
        return list(zip(seats, self._answers(starts, bundles, deadline), strict=True))

    def _answers(self, asked: list[Any], bundles: Sequence[int], deadline: float) -> list[Any]:
        """What actors answer, once all have; the first one that is lost is raised."""
        waiting = list(asked)
        while waiting:
            ended, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK)
            ray.get(ended)
            late = [bundles[asked.index(each)] for each in waiting]
            if late:
                self._cluster.refuse_late(deadline, self._cluster.silent(late))
        return list(ray.get(asked))


def _have_gpus(bundles: Sequence[Mapping[str, float]]) -> bool:
    return all(bundle.get("GPU", 0) >= 1 for bundle in bundles)


def _end(actors: Mapping[int, Any]) -> None:
    for actor in actors.values():
        ray.kill(actor)


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _connect(address: str) -> None:
    """Join a cluster, unless this process is in one."""
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address not in ("auto", joined):
            raise ConfigurationError(f"ray is '{address}', and this process is connected to the cluster of {joined}")
        return
    if address != "auto":
        _refuse_unreachable(address)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ConfigurationError(
            f"ray is '{address}', and this machine is in no such cluster ({_last_line(error)}): start Ray here, with "
            "'ray start --head', or 'ray start --address HOST:PORT'"
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)  # which Ray has replaced


def _refuse_unreachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise ConfigurationError(f"ray is '{address}'; it has to be 'auto' or HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"ray is '{address}', and nobody listens there: {error}") from error
