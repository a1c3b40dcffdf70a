"""Local attention of queries at known places over keys at known places: windows, padding and soft-caps, with LSE.

What the fused kernels take (no mask at all, or a block against itself) goes to them, with the heads of a group as
further rows, so that keys are never repeated. The rest is torch's operators, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenring_xdit.attention.kernels import choose
from tokenring_xdit.attention.merge import fold_
from tokenring_xdit.planning.pairs import first_key

__all__ = ["LOCAL_KERNELS", "Scores", "attend", "blockwise", "fused"]

_Pieces = Sequence[tuple[int, int]]

_QUERIES, _KEYS = 256, 4096
"""Queries and keys that are attended at once by the plain kernel."""

_SCORES = 1 << 22
"""Scores that it holds at once."""


@dataclass(frozen=True)
class Scores:
    """What is done to the scores of a layer.

    Attributes:
        scale: Factor on the products of queries and keys.
        window: A query sees this many keys, its own included; ``None`` for all up to its own.
        softcap: Scores become ``softcap * tanh(scores / softcap)``; ``None`` leaves them.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None

    def first_key(self, query: int) -> int:
        """The first key that a query may see."""
        return first_key(query, self.window)


def fused(
    q: Tensor, k: Tensor, v: Tensor, q_start: int, pieces: _Pieces, scores: Scores
) -> tuple[Tensor, Tensor] | None:
    """The best fused kernel, where every query sees every key or the block is the diagonal one; else ``None``."""
    q_stop, k_start, k_stop = q_start + q.shape[2], pieces[0][0], pieces[-1][1]
    if scores.softcap is not None or k_start < scores.first_key(q_stop - 1):
        return None
    kernel = choose(None, q.device, q.dtype, q.shape[3]).run
    batch, heads, length, dim = q.shape
    groups = k.shape[1]
    if k_stop <= q_start + 1:
        # Without a mask the heads of a group are but further queries.
        rows = q.reshape(batch, groups, heads // groups * length, dim)
        out, lse = kernel(rows.contiguous(), k, v, scale=scores.scale, causal=False)
        return out.reshape(q.shape), lse.float().reshape(q.shape[:-1])
    if len(pieces) == 1 and (k_start, k_stop) == (q_start, q_stop):
        k, v = (t.repeat_interleave(heads // groups, dim=1) for t in (k, v))
        out, lse = kernel(q.contiguous(), k, v, scale=scores.scale, causal=True)
        return out, lse.float()
    return None


def blockwise(
    q: Tensor, k: Tensor, v: Tensor, q_start: int, pieces: _Pieces, scores: Scores, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax in fp32 by blocks of queries, and of the keys that they may see; any mask."""
    batch, heads, length, _ = q.shape
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float32, device=q.device)
    lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)
    rows = max(1, min(_QUERIES, _SCORES // (batch * heads * min(_KEYS, k.shape[2]))))
    for top in range(0, length, rows):
        part = slice(top, min(length, top + rows))
        queries = torch.arange(q_start + part.start, q_start + part.stop, device=q.device)
        seen_from, seen_to = scores.first_key(q_start + part.start), q_start + part.stop
        behind = 0  # keys of earlier pieces
        for start, stop in pieces:
            for low in range(max(start, seen_from), min(stop, seen_to), _KEYS):
                high = min(stop, seen_to, low + _KEYS)
                block = slice(behind + low - start, behind + high - start)
                places = torch.arange(low, high, device=q.device)
                seen = _seen(queries, places, scores, None if valid is None else valid[:, block])
                found = _block(q[:, :, part], k[:, :, block], v[:, :, block], seen, scores)
                fold_(out[:, :, part], lse[:, :, part], *found)
            behind += stop - start
    return out, lse


def _seen(queries: Tensor, places: Tensor, scores: Scores, valid: Tensor | None) -> Tensor:
    """Which keys each query sees, bool ``[B or 1, 1, 1, Sq, Sk]``."""
    seen = places <= queries[:, None]
    if scores.window is not None:
        seen &= places > queries[:, None] - scores.window
    return seen[None, None, None] if valid is None else seen & valid[:, None, None, None]


def _block(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
    """Output ``[B, H, Sq, Dv]`` and log-sum-exp of a block; 0 and ``-inf`` where a query sees no key."""
    batch, heads, queries, dim = q.shape
    groups = k.shape[1]
    rows = q.float().reshape(batch, groups, heads // groups * queries, dim)  # so that no key is repeated
    found = ((rows * scores.scale) @ k.float().transpose(-1, -2)).view(batch, groups, -1, queries, k.shape[2])
    if scores.softcap is not None:
        found = torch.tanh(found / scores.softcap) * scores.softcap
    found = found.masked_fill(~seen, -math.inf)
    lse = torch.logsumexp(found, dim=-1)
    weights = torch.exp(found - lse.masked_fill(lse == -math.inf, 0.0).unsqueeze(-1))
    out = weights.flatten(2, 3) @ v.float()
    return out.view(batch, heads, queries, v.shape[-1]), lse.flatten(1, 2)


LOCAL_KERNELS: dict[str, Callable[..., tuple[Tensor, Tensor] | None]] = {"fused": fused, "blockwise": blockwise}
"""By name; the first that takes a call is used, and the last takes every one."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, q_start: int, pieces: _Pieces, scores: Scores, valid: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Attention of consecutive queries over keys whose places are known.

    Args:
        q: Queries ``[B, H, Sq, D]``, of the tokens ``q_start..q_start + Sq - 1``.
        k: Keys ``[B, Hkv, Sk, D]``.
        v: Values ``[B, Hkv, Sk, Dv]``.
        q_start: Place of the first query in the sequence.
        pieces: Places of the keys, as ranges in ascending order.
        scores: Scale, window and soft-cap.
        valid: Which keys count, bool ``[B, Sk]``; ``None`` for all.

    Returns:
        Output ``[B, H, Sq, Dv]`` and log-sum-exp ``[B, H, Sq]`` in fp32, in memory of their own; ``None`` where no
        query sees a key by its place.
    """
    q_stop = q_start + q.shape[2]
    if not q.numel() or not pieces or pieces[0][0] >= q_stop or pieces[-1][1] <= scores.first_key(q_start):
        return None
    if valid is not None and bool(valid.all()):
        valid = None
    if valid is None:
        found = LOCAL_KERNELS["fused"](q, k, v, q_start, pieces, scores)
        if found is not None:
            return found
    return LOCAL_KERNELS["blockwise"](q, k, v, q_start, pieces, scores, valid)
