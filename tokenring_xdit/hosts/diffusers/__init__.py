"""TokenRing inside diffusers' own context parallel: everything that knows how diffusers cuts and attends is here.

Names are imported when they are asked for, as the records of model families are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenring_xdit.hosts.diffusers.host import ContextParallelConfig, parallelize, undo
    from tokenring_xdit.hosts.diffusers.install import register

_HOMES = {"ContextParallelConfig": "host", "parallelize": "host", "register": "install", "undo": "host"}
"""The modules that they are in. None has the name of a module: that would be the module once it is imported."""

__all__ = ["ContextParallelConfig", "parallelize", "register", "undo"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
