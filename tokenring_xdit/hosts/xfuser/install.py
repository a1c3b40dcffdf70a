"""Attaches TokenRing to xfuser through import hooks; no file of xfuser is edited."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import wrapt

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.xfuser import dispatch, noise, platform_cpu, repairs, runner, supported
from tokenring_xdit.hosts.xfuser.choice import unattached
from tokenring_xdit.hosts.xfuser.flags import install_flags

__all__ = ["register"]

log = logging.getLogger("tokenring_xdit")

_registered = False


def register(*, tolerant: bool = False) -> None:
    """Make TokenRing a parallel-attention choice of xfuser; call it before ``import xfuser``.

    Adds ``--tokenring_degree`` and ``--tokenring_schedule`` to xfuser's argument parsers, and the
    attributes of the same names to ``xFuserArgs``. Where TokenRing is not chosen, xfuser computes
    what it computed before. On a machine without an accelerator it also lets xfuser run on gloo.
    Calling it again does nothing.

    Args:
        tolerant: Where a module of another xfuser release cannot be changed, log that and refuse
            TokenRing when it is asked for, instead of making the import of that module fail.

    Raises:
        ConfigurationError: xfuser was imported already on a machine without an accelerator, too late
            for it to run there.
    """
    global _registered
    if _registered:
        return
    if platform_cpu.no_accelerator():
        if "xfuser.envs" in sys.modules:
            raise ConfigurationError(
                "xfuser was imported before tokenring_xdit.hosts.xfuser.register() was called, which is "
                "too late on a machine without an accelerator: call it first"
            )
        platform_cpu.prepare_torch()
        for module, hook in platform_cpu.HOOKS.items():
            wrapt.register_post_import_hook(_tolerating(hook) if tolerant else hook, module)
    own = [("xfuser.model_executor.layers.usp", dispatch.install), ("xfuser.config.args", install_flags)]
    for module, hook in (*own, *noise.HOOKS.items(), *supported.HOOKS.items(), *runner.HOOKS.items(), *repairs.hooks()):
        wrapt.register_post_import_hook(_tolerating(hook) if tolerant else hook, module)
    _registered = True


def _tolerating(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    def attach(module: Any) -> None:
        try:
            hook(module)
        except Exception:
            log.warning("TokenRing could not attach itself to %s", module.__name__, exc_info=True)
            unattached.append(module.__name__)

    return attach
