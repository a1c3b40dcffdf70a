"""What diffusers hands to attention as a mask, as the keys that count: a mask stays on the rank of its keys."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenring_xdit.errors import UnsupportedError

__all__ = ["keys_that_count", "real_tokens", "refuse_holes", "refuse_weights", "with_bonus"]

_CHANNELS = 8
"""Channels more where scores get a bonus: kernels take multiples of eight."""

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
    mask = _of_pairs(mask, queries, keys)
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


def real_tokens(mask: Tensor, queries: int, keys: int) -> Tensor:
    """Which of a rank's tokens are real, from a mask for pairs of tokens, of which both have to be.

    Args:
        mask: As :func:`keys_that_count` takes it; bool, or 0 and 1.
        queries: This rank's tokens, as queries.
        keys: The same, as keys.

    Returns:
        Bool, ``[B, S]`` or ``[1, S]``.

    Raises:
        UnsupportedError: It is no such mask.
    """
    mask = _of_pairs(mask, queries, keys)
    real = mask[:, :1].expand(-1, -1, queries, keys).bool().any(3)[:, 0]
    pairs = real[:, None, :, None] & real[:, None, None, :] if queries == keys else None
    if pairs is None or not bool((mask == pairs.to(mask.dtype)).all()):
        raise UnsupportedError(
            "attention got a mask for pairs of tokens that is not that of pairs of real ones, which was not compared: "
            "leave the model's masks as they are, or do without parallelize"
        )
    return real


def refuse_holes(kind: str, mask: Tensor) -> None:
    """Refuse a mask of text in which hidden tokens are in front of real ones, or between them.

    Args:
        kind: Class of the transformer.
        mask: What it is given for the whole text, ``[B, S]``.

    Raises:
        UnsupportedError: There is such a token: a processor that packs the real ones would take them for others.
    """
    real = mask != 0
    if bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise UnsupportedError(
            f"the {kind} got an encoder_attention_mask in which hidden tokens are in front of real ones, which was not "
            "compared when it is spread over ranks: put the padding behind the text, or do without parallelize"
        )


def refuse_weights(kind: str, mask: Tensor) -> None:
    """Refuse a mask of tokens that says more of them than whether they are real.

    Args:
        kind: Class of the transformer.
        mask: What it is given for all tokens, ``[B, S]``.

    Raises:
        UnsupportedError: There are other numbers than 0 and 1.
    """
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UnsupportedError(
            f"the {kind} got an attention_mask of other numbers than 0 and 1, which was not compared when it is spread "
            "over ranks: leave the pipeline's mask as it is, or do without parallelize"
        )


def with_bonus(q: Tensor, k: Tensor, v: Tensor, real: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Add one to the scores of real tokens among each other: channels more, whose product it is.

    Args:
        q: ``[B, H, S, D]``.
        k: ``[B, Hkv, S, D]``.
        v: ``[B, Hkv, S, D]``.
        real: Bool, ``[B, S]`` or ``[1, S]``.
        scale: Factor on the scores.

    Returns:
        The same with eight channels more, of which those of the values are zero.
    """
    own, theirs = (x.new_zeros((*x.shape[:-1], _CHANNELS)) for x in (q, k))
    # one over the scale has more digits than bf16, so that it takes two channels
    whole = torch.tensor(1 / scale, dtype=q.dtype).item()
    for channel, part in enumerate((whole, 1 / scale - whole)):
        own[..., channel] = real[:, None].to(q.dtype) * part
        theirs[..., channel] = real[:, None]
    return torch.cat([q, own], -1), torch.cat([k, theirs], -1), torch.cat([v, torch.zeros_like(theirs)], -1)


def _of_pairs(mask: Tensor, queries: int, keys: int) -> Tensor:
    """A mask that broadcasts to ``[B, H, Sq, Skv]``, in four dimensions.

    Raises:
        UnsupportedError: It does not.
    """
    if mask.ndim > 4 or mask.ndim < 2 or mask.shape[-1] not in (1, keys) or mask.shape[-2] not in (1, queries):
        raise UnsupportedError(
            f"attention got a mask {tuple(mask.shape)} for {queries} queries and {keys} keys of this rank, which was "
            "not compared: leave the model's masks as they are, or do without parallelize"
        )
    return mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape))
