"""What goes to another rank where its keys are needed."""

from __future__ import annotations

from enum import Enum

__all__ = ["Travel"]


class Travel(Enum):
    """What goes to another rank where its keys are needed."""

    KEYS = "keys"
    QUERIES = "queries"
    SCHEDULE = "schedule"
    """What a schedule says, in plain causal attention; else that of which less goes."""
