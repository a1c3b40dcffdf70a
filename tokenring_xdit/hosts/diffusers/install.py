"""What is changed in diffusers: where attention over several devices is computed, and how a model is told to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import wraps
from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts import caches, from_pipe
from tokenring_xdit.hosts.diffusers.attention import DISPATCH, answer_dispatch
from tokenring_xdit.hosts.installation import INSTALLATION

__all__ = ["ParallelConfig", "register"]

_HOST = "diffusers"


class ParallelConfig(ABC):
    """What ``enable_parallelism`` of a model takes beside diffusers' own configs."""

    @abstractmethod
    def apply(self, model: Any, cp_plan: Mapping[str, Any] | None) -> None:
        """Spread a model over ranks; all ranks call it.

        Args:
            model: A model of diffusers.
            cp_plan: Where the user wants it to be cut.
        """


def register() -> None:
    """Attach TokenRing to diffusers; again does nothing. :func:`tokenring_xdit.hosts.installed` lists and undoes it."""
    if _HOST in INSTALLATION.hosts:
        return
    INSTALLATION.attach(DISPATCH, answer_dispatch)
    INSTALLATION.attach("diffusers.models.modeling_utils", take_our_config)
    for module, hook in (*caches.HOOKS.items(), *from_pipe.HOOKS.items()):
        INSTALLATION.attach(module, hook)
    INSTALLATION.hosts.add(_HOST)


def take_our_config(modeling: Any) -> None:
    """Let ``enable_parallelism`` of a model take :class:`~tokenring_xdit.ContextParallelConfig`."""
    mixin = modeling.ModelMixin
    original: Any = getattr(mixin, "enable_parallelism", _no_parallelism)

    @wraps(original)
    def enable_parallelism(self: Any, *, config: Any, cp_plan: Mapping[str, Any] | None = None, **options: Any) -> None:
        if isinstance(config, ParallelConfig):
            config.apply(self, cp_plan)
        elif cp_plan is None:
            original(self, config=config, **options)
        else:
            original(self, config=config, cp_plan=cp_plan, **options)

    INSTALLATION.replace(mixin, "enable_parallelism", enable_parallelism)


def _no_parallelism(self: Any, *, config: Any) -> None:
    raise UnsupportedError(
        "enable_parallelism was asked for with another config, and this diffusers has no context parallel of its own: "
        "use tokenring_xdit.ContextParallelConfig"
    )
