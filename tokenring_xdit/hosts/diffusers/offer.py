"""Whether diffusers' own context parallel would spread a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from packaging.version import Version

from tokenring_xdit.hosts.base import Offer
from tokenring_xdit.hosts.diffusers.families import FAMILIES
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily
from tokenring_xdit.hosts.sharding import spread_elsewhere

__all__ = ["compared", "family_of", "family_of_model", "offer", "refused_options", "too_old"]


def compared() -> list[str]:
    """The pipelines that were compared with one process, in alphabetical order."""
    return sorted(name for family in FAMILIES.values() for name in family.names())


def family_of(pipeline: str) -> DiffusersFamily | None:
    """The family of a class of diffusers' pipelines that was compared."""
    return next((family for family in FAMILIES.values() if pipeline in family.names()), None)


def family_of_model(kind: str) -> DiffusersFamily | None:
    """The family of a class of diffusers' transformers that was compared."""
    return next((family for family in FAMILIES.values() if family.transformer == kind), None)


def offer(pipe: Any, options: Mapping[str, Any]) -> Offer:
    """What diffusers answers; nothing of it is repaired.

    Args:
        pipe: The pipeline.
        options: Those of ``parallelize``.
    """
    name = type(pipe).__name__
    family = family_of(name)
    if family is None:
        return Offer(refusal=f"{name} was not compared with it")
    return Offer(refusal=too_old(family) or spread_elsewhere(pipe, "diffusers") or refused_options(options))


def too_old(family: DiffusersFamily) -> str | None:
    """Why the installed diffusers does not shard a family, in a clause; ``None`` where it does."""
    if Version(version("diffusers")) >= Version(family.since):
        return None
    return f"diffusers {version('diffusers')} is installed, and {family.since} is the oldest that was compared"


def refused_options(options: Mapping[str, Any]) -> str | None:
    """Why diffusers does not take the options of ``parallelize``, in a clause; ``None`` where it does."""
    degree, backend = options.get("ulysses_degree", 1), options.get("attention_backend", "auto")
    if degree != 1:
        return f"it has no ulysses_degree={degree}"
    if getattr(backend, "value", backend) != "auto":
        return f"attention_backend={getattr(backend, 'value', backend)} is xfuser's"
    if options.get("cuda_graphs", False):
        return "cuda_graphs=True is xfuser's so far"
    return None
