"""Softmax in fp64, written out: what schedules and kernels are compared with. It uses nothing of the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["difference", "made", "softmax64"]


def made(seed: int, shape: tuple[int, int, int, int], peak: float) -> Tensor:
    """Normal numbers ``[B, H, S, D]`` in fp32 on the CPU, the same wherever they are made.

    Args:
        seed: Seed of the numbers.
        shape: Their shape.
        peak: Their scale. With 2 for queries and keys a query attends to few keys, as those of trained models do, and
            a key that is missed or counted twice shows.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * peak


def softmax64(q: Tensor, k: Tensor, v: Tensor, first: int | None = None) -> tuple[Tensor, Tensor]:
    """Attention in fp64 on the CPU.

    Args:
        q: Queries ``[B, H, Sq, D]``.
        k: Keys ``[B, Hkv, Skv, D]``; ``H`` is a multiple of ``Hkv``.
        v: Values, likewise.
        first: Position of the first query where each sees the keys up to its own position only; ``None`` where all
            see all.

    Returns:
        Output ``[B, H, Sq, D]`` and log-sum-exp ``[B, H, Sq]``.
    """
    q, k, v = (t.detach().cpu().double() for t in (q, k, v))
    share = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(share, dim=1) for t in (k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    if first is not None:
        positions = torch.arange(first, first + q.shape[2])
        scores = scores.masked_fill(torch.arange(k.shape[2]) > positions[:, None], -math.inf)
    return torch.softmax(scores, dim=3) @ v, torch.logsumexp(scores, dim=3)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of two tensors of one shape, as a share of the largest expected number; NaN stays NaN."""
    if not expected.numel():
        return 0.0
    return float((found.detach().cpu().double() - expected).abs().max() / expected.abs().max())
