"""Where the ranks of an engine are: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenring_xdit.devices import default_dtype, refuse_missing_gpus
from tokenring_xdit.dtypes import DtypeName
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.replicas import LocalPlace
from tokenring_xdit.workers.starting import WorldPlace

__all__ = ["name_on_ranks", "place_for"]


def place_for(ray: Any, module: str, *, ranks: int, worlds: int = 1, ulysses: int = 1) -> tuple[WorldPlace, DtypeName]:
    """Where ranks will be, and the dtype that is usual there.

    Args:
        ray: ``None`` for this machine, else ``auto``, the address of a Ray cluster, or a placement group there.
        module: Names the messages of ranks; see :class:`~tokenring_xdit.workers.wire.Wire`.
        ranks: Ranks of each world.
        worlds: How many of these.
        ulysses: Size of the Ulysses groups.

    Raises:
        ConfigurationError: There are too few GPUs or cores, or there is no such cluster.
    """
    if ray is None:
        refuse_missing_gpus(ranks * worlds)
        return LocalPlace(worlds, ranks), default_dtype()
    if not (isinstance(ray, str) and ray) and not hasattr(ray, "bundle_specs"):
        raise ConfigurationError(
            f"ray is {ray!r}; it has to be 'auto', HOST:PORT of the cluster's head, or a placement group"
        )
    if find_spec("ray") is None:
        raise ConfigurationError("ray=... needs Ray: pip install 'tokenring-xdit[ray]'")
    from tokenring_xdit.workers.on_ray.cluster import RayCluster

    cluster = RayCluster(ray, module, ranks=ranks, worlds=worlds, ulysses=ulysses)
    return cluster, "bfloat16" if cluster.gpus else "float32"


def name_on_ranks(name: str, ray: Any) -> str:
    """A model's or LoRA's name for ranks; those of Ray have other directories, where it might be one of the hub.

    Args:
        name: Folder, file or hub name.
        ray: As for :func:`place_for`.
    """
    path = Path(name)
    return str(path.absolute()) if ray is not None and path.exists() else name
