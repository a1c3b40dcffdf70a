"""What xfuser and transformers print on every rank by default, left out where TokenRing is used."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from tokenring_xdit.hosts.installation import INSTALLATION

__all__ = ["HOOKS", "no_debug_lines"]

_LEVEL = "LOG_LEVEL"
"""xfuser's environment variable; ``debug`` where it is not set."""

_TRANSFORMERS = "TRANSFORMERS_VERBOSITY"

_LOGGER = "xfuser.logger"


def no_debug_lines() -> None:
    """Have xfuser print errors only, as ranks of `run` do, unless the user has set :data:`_LEVEL`.

    To be called before ``import xfuser``.
    """
    INSTALLATION.attach(_LOGGER, print_errors_only)


def print_errors_only(module: Any) -> None:
    """Print errors only, where the user has not asked for more."""
    _set_level(module, logging.ERROR)


def _set_level(module: Any, level: int) -> None:
    if _LEVEL not in os.environ:
        INSTALLATION.replace(module, "_LOG_LEVEL", level)  # of loggers that are made from now on
        for name in ("_root_logger", "_default_handler"):
            INSTALLATION.set_level(getattr(module, name), level, f"{_LOGGER}.{name}")


def print_less_in_command(module: Any) -> None:
    """Leave out the same of `xdit` with TokenRing's flags, and in its ranks; what it reports of a run stays."""
    if not any(word.startswith(("--tokenring_", "--tokenring-")) for word in sys.argv[1:]):
        return
    _set_level(module, logging.INFO)
    if _LEVEL not in os.environ:
        INSTALLATION.put(os.environ, _LEVEL, "info", "os.environ")
    if _TRANSFORMERS not in os.environ:  # hints at packages that nothing here needs
        INSTALLATION.put(os.environ, _TRANSFORMERS, "error", "os.environ")
        transformers = logging.getLogger("transformers")  # where it is imported already
        INSTALLATION.set_level(transformers, logging.ERROR, "transformers")


HOOKS = {_LOGGER: print_less_in_command}
