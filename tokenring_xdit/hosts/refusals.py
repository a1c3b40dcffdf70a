"""Degrees that no model of any host library takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.models import families
from tokenring_xdit.parallel import ParallelDims

__all__ = ["heads_of", "refuse_ranks", "refuse_ulysses"]


def heads_of(transformer: Mapping[str, Any]) -> int | None:
    """The query heads that a transformer's configuration states; ``None`` where it does not."""
    names = dict.fromkeys(family.heads for family in families())
    return next((int(transformer[name]) for name in names if transformer.get(name) is not None), None)


def refuse_ranks(dims: ParallelDims) -> None:
    """Refuse degrees for another number of ranks than there are.

    Raises:
        ConfigurationError: They are.
    """
    if dims.ranks == dist.get_world_size():
        return
    ulysses, remedy = "", "that as the degree"
    if dims.ulysses > 1:
        ulysses, remedy = f" times ulysses_degree={dims.ulysses}", "degrees whose product is that"
    raise ConfigurationError(
        f"tokenring_degree={dims.tokenring}{ulysses} is {dims.ranks} ranks, and {dist.get_world_size()} were started: "
        f"use {remedy}, or torchrun --nproc_per_node={dims.ranks}"
    )


def refuse_ulysses(degree: int, heads: int | None) -> None:
    """Refuse a Ulysses degree that does not divide the attention heads, where their number is known.

    Args:
        degree: Ranks that Ulysses shards the heads over.
        heads: Query heads.

    Raises:
        UnsupportedError: It does not.
    """
    if heads is not None and heads % degree:
        fitting = [d for d in range(1, heads + 1) if heads % d == 0]
        raise UnsupportedError(
            f"ulysses_degree={degree} does not divide the model's {heads} heads. Degrees that "
            f"would work: {', '.join(map(str, fitting))}. tokenring_degree takes any number"
        )
