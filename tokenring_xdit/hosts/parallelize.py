"""``tokenring_xdit.parallelize``: the host library of what it was given does it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

__all__ = ["parallelize"]

_Model = TypeVar("_Model")

_HOSTS = {"diffusers": "tokenring_xdit.hosts.xfuser.host", "transformers": "tokenring_xdit.hosts.transformers"}
"""Which module spreads objects of a library's classes; what belongs to no library is a pipeline to be refused."""


def parallelize(model: _Model, **options: Any) -> _Model:
    """Spread a pipeline of diffusers, or a language model of transformers, over the ranks of ``torchrun``.

    Args:
        model: What is spread; it is changed in place.
        **options: Those of :func:`tokenring_xdit.hosts.xfuser.parallelize` for pipelines, and of
            :func:`tokenring_xdit.hosts.transformers.parallelize` for language models.

    Returns:
        ``model``.
    """
    libraries = [kind.__module__.partition(".")[0] for kind in type(model).__mro__]
    home = next((_HOSTS[library] for library in libraries if library in _HOSTS), _HOSTS["diffusers"])
    spread: _Model = import_module(home).parallelize(model, **options)
    return spread
