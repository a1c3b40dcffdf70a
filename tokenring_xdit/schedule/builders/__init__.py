"""One algorithm a module, found by looking: a new one is a new file here, and nothing else.

A module writes plans in functions that :func:`~tokenring_xdit.schedule.algorithm.algorithm` registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from tokenring_xdit.schedule.algorithm import Algorithm, registered

__all__ = ["ALGORITHMS"]

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")

ALGORITHMS: Mapping[str, Algorithm] = registered()
"""All schedules that can be asked for by name, in alphabetical order."""
