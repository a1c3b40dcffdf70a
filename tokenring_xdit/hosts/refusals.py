"""Degrees that no model of any host library takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.models import families

__all__ = ["heads_of", "refuse_ulysses"]


def heads_of(transformer: Mapping[str, Any]) -> int | None:
    """The query heads that a transformer's configuration states; ``None`` where it does not."""
    names = dict.fromkeys(family.heads for family in families())
    return next((int(transformer[name]) for name in names if transformer.get(name) is not None), None)


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
