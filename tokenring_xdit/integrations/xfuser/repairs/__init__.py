"""Faults of xfuser that are mended where TokenRing is chosen; one module for each model family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tokenring_xdit.integrations.xfuser.repairs import flux

__all__ = ["hooks"]


def hooks() -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Module names, each with what to do right after it has been imported."""
    yield from flux.HOOKS.items()
