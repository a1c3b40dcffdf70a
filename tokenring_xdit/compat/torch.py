"""Differences between versions of torch, from 2.8 on."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

__all__ = ["new_group"]

_SORTING_IS_OPTIONAL = "sort_ranks" in inspect.signature(dist.new_group).parameters
"""From torch 2.13 on; before, the ranks of every group were sorted, so a group of its ranks in their order is too."""


def new_group(ranks: Sequence[int], **options: Any) -> dist.ProcessGroup:
    """:func:`torch.distributed.new_group` with the ranks in the order given, as they are in another group."""
    if _SORTING_IS_OPTIONAL:
        options["sort_ranks"] = False
    group: dist.ProcessGroup = dist.new_group(list(ranks), **options)
    return group
