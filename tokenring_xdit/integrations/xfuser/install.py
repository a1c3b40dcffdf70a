"""Attaches TokenRing to xfuser through import hooks; no file of xfuser is edited."""

from __future__ import annotations

import sys

import wrapt

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.integrations.xfuser import dispatch, platform_cpu, repairs, runner, supported
from tokenring_xdit.integrations.xfuser.flags import install_flags

__all__ = ["register"]

_registered = False


def register() -> None:
    """Make TokenRing a parallel-attention choice of xfuser; call it before ``import xfuser``.

    Adds ``--tokenring_degree`` and ``--tokenring_schedule`` to xfuser's argument parsers, and the
    attributes of the same names to ``xFuserArgs``. Where TokenRing is not chosen, xfuser computes
    what it computed before. On a machine without an accelerator it also lets xfuser run on gloo.
    Calling it again does nothing.

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
                "xfuser was imported before tokenring_xdit.integrations.xfuser.register() was called, which is "
                "too late on a machine without an accelerator: call it first"
            )
        platform_cpu.prepare_torch()
        for module, hook in platform_cpu.HOOKS.items():
            wrapt.register_post_import_hook(hook, module)
    wrapt.register_post_import_hook(dispatch.install, "xfuser.model_executor.layers.usp")
    wrapt.register_post_import_hook(install_flags, "xfuser.config.args")
    for module, hook in (*supported.HOOKS.items(), *runner.HOOKS.items(), *repairs.hooks()):
        wrapt.register_post_import_hook(hook, module)
    _registered = True
