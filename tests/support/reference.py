"""Attention written out in fp64, independent of everything in the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, visible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Plain attention in fp64.

    Args:
        q: Queries, ``[B, H, Sq, D]``.
        k: Keys, ``[B, Hkv, Skv, D]``.
        v: Values, ``[B, Hkv, Skv, D]``.
        scale: Factor on the scores; ``None`` is ``1 / sqrt(D)``.
        visible: Which keys a query sees, bool, broadcast to ``[B, H, Sq, Skv]``.

    Returns:
        Output and log-sum-exp, fp64.
    """
    repeats = q.shape[1] // k.shape[1]
    k, v = (t.double().repeat_interleave(repeats, dim=1) for t in (k, v))
    scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k) * (scale or 1 / math.sqrt(q.shape[-1]))
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    return torch.softmax(scores, dim=-1) @ v, torch.logsumexp(scores, dim=-1)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the largest expected value."""
    return ((actual.double() - expected.double()).abs().max() / expected.double().abs().max()).item()
