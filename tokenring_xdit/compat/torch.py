"""Differences between versions of torch, from 2.8 on."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

__all__ = ["RELIED_ON", "new_group"]

RELIED_ON = (
    "distributed_c10d._abort_process_group",
    "distributed_c10d._get_default_group",
    "distributed_c10d._get_default_store",
    "distributed_c10d._world.default_pg",
    "distributed_c10d._world.group_count",
    "distributed_c10d._world.pg_map",
    "distributed_c10d._world.pg_names",
    "ProcessGroup._device_types",
    "ProcessGroup._end_coalescing",
    "ProcessGroup._get_backend",
    "ProcessGroup._start_coalescing",
    "ProcessGroup.group_name",
)
"""Names in ``torch.distributed`` that torch documents nowhere, and the package uses."""

_SORTING_IS_OPTIONAL = "sort_ranks" in inspect.signature(dist.new_group).parameters
"""From torch 2.13 on; before, the ranks of every group were sorted, so a group of its ranks in their order is too."""


def new_group(ranks: Sequence[int], **options: Any) -> dist.ProcessGroup:
    """:func:`torch.distributed.new_group` with the ranks in the order given, as they are in another group."""
    if _SORTING_IS_OPTIONAL:
        options["sort_ranks"] = False
    group: dist.ProcessGroup = dist.new_group(list(ranks), **options)
    return group
