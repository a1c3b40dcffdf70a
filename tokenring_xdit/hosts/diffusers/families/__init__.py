"""A file for each family of models that diffusers shards, found by looking; each has a ``FAMILY``."""

from __future__ import annotations

from tokenring_xdit.hosts.base import discovered
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily

__all__ = ["FAMILIES"]

FAMILIES: dict[str, DiffusersFamily] = discovered(__name__, __path__)
"""By the names of their modules."""
