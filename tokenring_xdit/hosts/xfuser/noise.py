"""What xfuser and transformers print on every rank by default, left out where TokenRing is used."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import wrapt

__all__ = ["HOOKS", "no_debug_lines"]

_LEVEL = "LOG_LEVEL"
"""xfuser's environment variable; ``debug`` where it is not set."""

_TRANSFORMERS = "TRANSFORMERS_VERBOSITY"

_LOGGER = "xfuser.logger"


def no_debug_lines() -> None:
    """Have xfuser print errors only, as ranks of `run` do, unless the user has set :data:`_LEVEL`.

    To be called before ``import xfuser``.
    """
    wrapt.register_post_import_hook(lambda module: _set_level(module, logging.ERROR), _LOGGER)


def _set_level(module: Any, level: int) -> None:
    if _LEVEL not in os.environ:
        module._LOG_LEVEL = level  # of loggers that are made from now on
        for each in (module._root_logger, module._default_handler):
            each.setLevel(level)


def _print_less_in_command(module: Any) -> None:
    """Leave out the same of `xdit` with TokenRing's flags, and in its ranks; what it reports of a run stays."""
    if not any(word.startswith(("--tokenring_", "--tokenring-")) for word in sys.argv[1:]):
        return
    _set_level(module, logging.INFO)
    os.environ.setdefault(_LEVEL, "info")
    if _TRANSFORMERS not in os.environ:
        os.environ[_TRANSFORMERS] = "error"  # hints at packages that nothing here needs
        logging.getLogger("transformers").setLevel(logging.ERROR)  # where it is imported already


HOOKS = {_LOGGER: _print_less_in_command}
