"""Attaches TokenRing to xfuser through import hooks; no file of xfuser is edited."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts import caches, from_pipe
from tokenring_xdit.hosts.installation import INSTALLATION, Hook
from tokenring_xdit.hosts.xfuser import dispatch, graphs, noise, platform_cpu, runner, supported
from tokenring_xdit.hosts.xfuser.families import FAMILIES
from tokenring_xdit.hosts.xfuser.family import PIPELINES
from tokenring_xdit.hosts.xfuser.flags import install_flags
from tokenring_xdit.hosts.xfuser.repairs import attention_kernels, lora, pipelines, rows

__all__ = ["register"]

_HOST = "xfuser"

_ASKED_AT_IMPORT = "xfuser.envs"
"""What other modules of xfuser ask for the device while they are imported."""


def register(*, tolerant: bool = False) -> None:
    """Make TokenRing a parallel-attention choice of xfuser; call it before ``import xfuser``.

    Adds ``--tokenring_degree`` and ``--tokenring_schedule`` to xfuser's argument parsers, and the
    attributes of the same names to ``xFuserArgs``. Where TokenRing is not chosen, xfuser computes
    what it computed before. On a machine without an accelerator it also lets xfuser run on gloo.
    Calling it again does nothing. What it changes, :func:`tokenring_xdit.hosts.installed` lists and undoes.

    Args:
        tolerant: Where a module of another xfuser release cannot be changed, log that and refuse
            TokenRing when it is asked for, instead of making the import of that module fail.

    Raises:
        ConfigurationError: xfuser was imported already on a machine without an accelerator, too late
            for it to run there.
    """
    if _HOST in INSTALLATION.hosts:
        return
    hooks: list[tuple[str, Hook]] = [
        ("xfuser.model_executor.layers.usp", dispatch.install),
        ("xfuser.config.args", install_flags),
    ]
    if platform_cpu.no_accelerator():
        if _ASKED_AT_IMPORT in sys.modules and _ASKED_AT_IMPORT not in INSTALLATION.reached:
            raise ConfigurationError(
                "xfuser was imported before tokenring_xdit.hosts.xfuser.register() was called, which is "
                "too late on a machine without an accelerator: call it first"
            )
        platform_cpu.prepare_torch()
        hooks[:0] = platform_cpu.HOOKS.items()
    for module in (noise, supported, runner, graphs, caches, from_pipe, attention_kernels, rows):
        hooks += module.HOOKS.items()
    for name, hook in (*hooks, *_repairs()):
        INSTALLATION.attach(name, hook, tolerant=tolerant)
    INSTALLATION.hosts.add(_HOST)


def _repairs() -> Iterator[tuple[str, Hook]]:
    """What is repaired of single families, by module."""
    for family in FAMILIES.values():
        if family.repairs is not None:
            yield from import_module(family.repairs).HOOKS.items()
        for own in family.own:
            yield PIPELINES + own.module, partial(pipelines.repair, own)
        for path, argument in family.lora.items():  # in front of what was put before a forward
            module, _, name = path.partition(":")
            yield module, partial(lora.scale_lora_for_the_call, name, argument)
