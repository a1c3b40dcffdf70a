"""Whether xfuser would spread a pipeline, and with how many repairs; it is not imported for that."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tokenring_xdit.hosts.base import Offer
from tokenring_xdit.hosts.sharding import spread_elsewhere
from tokenring_xdit.hosts.xfuser.families import FAMILIES

__all__ = ["offer"]


def offer(pipe: Any, options: Mapping[str, Any]) -> Offer:
    """What xfuser answers.

    Args:
        pipe: The pipeline.
        options: Those of ``parallelize``; xfuser's host takes all of them.
    """
    if not _installed():
        return Offer(refusal="it is not installed", installed=False)
    name = type(pipe).__name__
    family = next((each for each in FAMILIES.values() if name in {known.name for known in each.pipelines}), None)
    if family is None:
        return Offer(refusal=f"{name} was not compared with it")
    repairs = len(import_module(family.repairs).HOOKS) if family.repairs is not None else 0
    return Offer(repairs=repairs + len(family.lora), refusal=spread_elsewhere(pipe, "xfuser"))


def _installed() -> bool:
    try:
        return find_spec("xfuser") is not None
    except (ImportError, ValueError):  # where a program keeps it from being imported
        return False
