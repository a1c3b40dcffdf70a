"""What diffusers hands to attention as a mask, as the keys that count: where keys stay at home so does their mask."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenring_xdit.errors import UnsupportedError

__all__ = ["keys_that_count"]

_FAR_BELOW = -9000.0
"""What diffusers adds to the scores of hidden keys is -10000, in bf16 -9984, or less; the softmax makes 0 of it."""


def keys_that_count(mask: Tensor, queries: int, keys: int) -> Tensor:
    """Which of a rank's keys count, where all queries and heads see the same.

    Args:
        mask: As torch's attention takes it, for this rank's queries and keys: bool, or what is added to the scores;
            it broadcasts to ``[B, H, Sq, Skv]``.
        queries: This rank's queries, ``Sq``.
        keys: This rank's keys, ``Skv``.

    Returns:
        Bool, ``[B, Skv]`` or ``[1, Skv]``.

    Raises:
        UnsupportedError: Queries or heads see different keys, or scores are changed otherwise.
    """
    if mask.ndim > 4 or mask.ndim < 2 or mask.shape[-1] not in (1, keys) or mask.shape[-2] not in (1, queries):
        raise UnsupportedError(
            f"attention got a mask {tuple(mask.shape)} for {queries} queries and {keys} keys of this rank, which was "
            "not compared: leave the model's masks as they are, or do without parallelize"
        )
    mask = mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape))
    first = mask[:, :1, :1]
    if mask.numel() and not bool((mask == first).all()):
        raise UnsupportedError(
            "attention got a mask in which queries or heads see different keys, which was not compared: leave the "
            "model's masks as they are, or do without parallelize"
        )
    if not first.shape[2]:
        raise UnsupportedError(
            "attention got a mask with a row for each query on a rank that has no query, so that nobody knows its "
            "keys: use fewer ranks, or a longer sequence"
        )
    row = first[:, 0, 0].expand(-1, keys)
    if row.dtype == torch.bool:
        return row
    hidden = row < _FAR_BELOW
    if not bool(((row == 0) | hidden).all()):
        raise UnsupportedError(
            "attention got numbers to add to its scores that are no mask of 0 and at most -9000, which was not "
            "compared: leave the model's masks as they are, or do without parallelize"
        )
    return ~hidden
