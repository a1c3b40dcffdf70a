"""One family of models a module, found by looking: a new one is a new file here, and nothing else.

A module holds one record, ``FAMILY``. What repairs xfuser for that family stands beside it, in a module that the record
names: records are read by commands that load no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenring_xdit.hosts.base import discovered
from tokenring_xdit.hosts.xfuser.family import XfuserFamily

__all__ = ["FAMILIES"]

FAMILIES: Mapping[str, XfuserFamily] = discovered(__name__, __path__)
"""All families that xfuser shards and that were compared with one process, by the names of their modules."""
