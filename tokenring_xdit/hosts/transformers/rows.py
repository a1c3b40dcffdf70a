"""Which rows of a result every rank gets, and how they are put together from those that each rank computed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.transformers.exchanges import Exchanges

__all__ = ["Division", "gather_rows", "rows_to_keep"]


class Division(NamedTuple):
    """Who computed which tokens of a call; see :class:`~tokenring_xdit.hosts.transformers.current.Forward`."""

    past: int
    new: int
    queries: tuple[tuple[int, int], ...]
    sharded: bool


def rows_to_keep(kept: int | Tensor, new: int) -> tuple[int, ...] | None:
    """What ``logits_to_keep`` asks for: rows of the new tokens, ``None`` for all.

    Raises:
        UnsupportedError: It differs between the items of a batch, or there is no such row.
    """
    if isinstance(kept, int):
        return tuple(range(new)[-kept:]) if kept else None  # a negative number leaves out the first, as in transformers
    if kept.ndim != 1:
        raise UnsupportedError(
            "logits_to_keep was given as a tensor of two dimensions, rows for each item of the batch, which a sharded "
            "model does not gather: pass a number, or one list of rows for all items"
        )
    rows: list[int] = (kept.nonzero()[:, 0] if kept.dtype == torch.bool else kept).tolist()
    outside = [row for row in rows if not -new <= row < new]
    if outside:
        raise UnsupportedError(
            f"logits_to_keep asks for row {outside[0]} of {new} new tokens: pass rows that there are"
        )
    return tuple(row % new for row in rows)


def gather_rows(hidden: Tensor, rows: tuple[int, ...] | None, division: Division, exchanges: Exchanges) -> Tensor:
    """The rows of the new tokens that were asked for, on every rank.

    Args:
        hidden: What this rank computed, ``[B, T_r, X]``.
        rows: Those that were asked for; ``None`` for all.
        division: Who computed which tokens.
        exchanges: The ranks.

    Returns:
        ``[B, len(rows), X]``.
    """
    wanted = range(division.new) if rows is None else rows
    if not division.sharded:
        return hidden if rows is None else hidden[:, list(wanted)]
    mine: list[list[int]] = []  # which of the wanted rows each rank has
    for low, high in division.queries:
        mine.append([n for n, row in enumerate(wanted) if low <= row + division.past < high])
    longest = max(map(len, mine))
    own = hidden.new_zeros(hidden.shape[0], longest, hidden.shape[2])
    numbers = mine[exchanges.rank]
    start = division.queries[exchanges.rank][0] - division.past
    own[:, : len(numbers)] = hidden[:, [wanted[n] - start for n in numbers]]
    result = hidden.new_empty(hidden.shape[0], len(wanted), hidden.shape[2])
    for numbers, part in zip(mine, exchanges.gather(own, "the rows of the result"), strict=True):
        result[:, numbers] = part[:, : len(numbers)]
    return result
