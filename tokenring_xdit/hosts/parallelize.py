"""``tokenring_xdit.parallelize``: the host library of what it was given does it, the one with fewer repairs of two."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, NoReturn, TypeVar

from tokenring_xdit.errors import ConfigurationError, UnsupportedError, nearest
from tokenring_xdit.hosts.base import Offer
from tokenring_xdit.hosts.calls import agreed_host, join_world
from tokenring_xdit.messages import shown

__all__ = ["chosen", "engine_host", "parallelize", "refuse_engine_host"]

log = logging.getLogger("tokenring_xdit")

_Model = TypeVar("_Model")

_HOSTS: Mapping[str, tuple[str, ...]] = {"diffusers": ("diffusers", "xfuser"), "transformers": ("transformers",)}
"""Which hosts spread objects of a library's classes; of two with as many repairs the first."""


def parallelize(model: _Model, *, host: str | None = None, **options: Any) -> _Model:
    """Spread a pipeline of diffusers, or a language model of transformers, over the ranks of ``torchrun``.

    Args:
        model: The pipeline or language model; it is changed in place.
        host: Library that shards it: ``diffusers`` or ``xfuser`` for pipelines, ``transformers`` for language models.
            ``None`` takes a library that supports the request, the one that needs fewer repairs; the log names it.
        **options: Options of the host's own function of this name: ``tokenring_xdit.hosts.xfuser.parallelize`` or
            ``tokenring_xdit.hosts.diffusers.parallelize`` for pipelines,
            ``tokenring_xdit.hosts.transformers.parallelize`` for language models.

    Returns:
        ``model``.

    Raises:
        ConfigurationError: This host does not exist, or not for this model.
        TokenRingError: The host refuses the request; the same error on all ranks.
    """
    inside = getattr(model, "_orig_mod", model)  # of torch.compile
    libraries = [kind.__module__.partition(".")[0] for kind in type(inside).__mro__]
    hosts = next((_HOSTS[library] for library in libraries if library in _HOSTS), None)
    if hosts is None:
        join_world()
        agreed_host(model, partial(_refuse_foreign, model), "compute one model")  # raises on all ranks
        raise AssertionError
    if host is not None and host not in hosts:
        raise ConfigurationError(
            f"there is no host {shown(host)} for a {type(model).__name__}. {nearest(str(host), hosts)}"
        )
    taken, why = (host, "as asked for") if host is not None else chosen(model, hosts, options)
    if os.environ.get("RANK", "0") == "0":
        log.info("parallelize: host %s for the %s, %s", taken, type(model).__name__, why)
    spread: _Model = import_module(f"tokenring_xdit.hosts.{taken}").parallelize(model, **options)
    return spread


def _refuse_foreign(model: Any) -> NoReturn:
    """Refuse what belongs to no library that is known."""
    module = getattr(model, "module", None)
    instead = f": pass what is inside, the {type(module).__name__} in .module" if module is not None else ""
    raise UnsupportedError(
        f"tokenring_xdit.parallelize was given a {type(model).__name__}, and takes a pipeline of diffusers or a causal "
        f"language model of transformers, loaded{instead}"
    )


def engine_host(pipeline: str) -> str:
    """The host on which commands and engines run a class of diffusers' pipelines: xfuser where it was compared there.

    Args:
        pipeline: Its name.
    """
    families = import_module("tokenring_xdit.hosts.xfuser.families").FAMILIES.values()
    return "xfuser" if any(pipeline == known.name for each in families for known in each.pipelines) else "diffusers"


def refuse_engine_host(pipeline: str, ranks: int, **options: Any) -> None:
    """Refuse options of :func:`parallelize` that the host of :func:`engine_host` does not take.

    Args:
        pipeline: Name of a class that was compared.
        ranks: How many share it; one alone needs no host.
        **options: Those.

    Raises:
        UnsupportedError: It does not take one, or diffusers is too old for it.
    """
    if ranks == 1 or engine_host(pipeline) != "diffusers":
        return
    offers = import_module("tokenring_xdit.hosts.diffusers.offer")
    old, reason = offers.too_old(offers.family_of(pipeline)), offers.refused_options(options)
    if old is not None:
        raise UnsupportedError(f"{pipeline} runs with diffusers as its host, and {old}: use a newer one, or one rank")
    if reason is not None:
        raise UnsupportedError(f"{pipeline} runs with diffusers as its host, and {reason}: use tokenring_degree alone")


def chosen(pipe: Any, hosts: tuple[str, ...], options: Mapping[str, Any]) -> tuple[str, str]:
    """The host that spreads a pipeline where the user asks for none.

    Args:
        pipe: The pipeline.
        hosts: Those of its library.
        options: Those of :func:`parallelize`.

    Returns:
        Its name, and why it is that one.
    """
    if len(hosts) == 1:
        return hosts[0], "which has no other"
    offers: dict[str, Offer] = {
        name: import_module(f"tokenring_xdit.hosts.{name}.offer").offer(pipe, options) for name in hosts
    }
    able = {name: offer.repairs for name, offer in offers.items() if offer.refusal is None}
    refusals = "; ".join(f"{name}: {offer.refusal}" for name, offer in offers.items() if offer.refusal is not None)
    if not able:
        installed = [name for name, offer in offers.items() if offer.installed]
        return installed[-1], f"which is to say why not ({refusals})"
    best = min(able, key=lambda name: able[name])
    if len(able) == 1:
        return best, f"as the other cannot ({refusals})"
    counts = ", ".join(f"{name} {count}" for name, count in able.items())
    return best, f"which is exact with the fewest repairs ({counts})"
