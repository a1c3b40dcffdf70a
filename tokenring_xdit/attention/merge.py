"""Online softmax: merging partial attention outputs into one (Milakov and Gimelshein, arXiv 1805.02867)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from tokenring_xdit.schedule.lower.program import Cut

__all__ = ["Accumulator", "fold_", "fold_all_", "fold_with_torch"]


def fold_(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> None:
    """Fold the attention over other keys into ``out`` and ``lse``, in place.

    With ``w = sigmoid(other_lse - lse)`` the sum of both is ``(1 - w) out + w other_out``: one
    interpolation, which cannot overflow. Where the other side saw no key (its log-sum-exp is ``-inf``)
    ``out`` stays as it is. On a GPU it is one kernel, where Triton is installed.

    Args:
        out: Output over the first keys, ``[B, H, S, D]``, fp32.
        lse: Its log-sum-exp, ``[B, H, S]``, fp32.
        other_out: Output over the other keys, ``[B, H, S, D]``, any float dtype.
        other_lse: Its log-sum-exp, ``[B, H, S]``, fp32.
    """
    if out.is_cuda and _has_triton():
        from tokenring_xdit.attention import fused

        fused.fold_(out, lse, other_out, other_lse)
    else:
        fold_with_torch(out, lse, other_out, other_lse)


def fold_with_torch(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> None:
    """:func:`fold_` in torch's operators, on any device."""
    weight = torch.sigmoid(other_lse - lse).masked_fill_(other_lse == -math.inf, 0.0)
    out.lerp_(other_out.to(out.dtype), weight.unsqueeze(-1))
    torch.logaddexp(lse, other_lse, out=lse)


def fold_all_(out: Tensor, lse: Tensor, others: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Fold attention over several other sets of keys into ``out`` and ``lse`` at once, in place.

    Each is weighted by ``exp(its lse - lse of all)``; where nobody saw a key the output stays 0.

    Args:
        out: Output over the first keys, ``[B, H, S, D]``, fp32.
        lse: Its log-sum-exp, ``[B, H, S]``, fp32.
        others: Output in any float dtype and log-sum-exp of each of the others, shaped alike.
    """
    every = torch.stack([lse, *(other_lse for _, other_lse in others)])
    total = torch.logsumexp(every, 0)
    weights = torch.exp(every - total.masked_fill(total == -math.inf, 0.0)).unsqueeze(-1)
    out.mul_(weights[0])
    for (other_out, _), weight in zip(others, weights[1:], strict=True):
        out.addcmul_(other_out.to(out.dtype), weight)
    lse.copy_(total)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


class Accumulator:
    """The attention output of one query block while keys come in.

    Args:
        shape: Shape of the query block, ``[B, H, S, D]``.
        device: Where it lives.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._shape = shape
        self._device = device
        self._out: Tensor | None = None
        self._lse: Tensor | None = None

    def add(self, out: Tensor, lse: Tensor, cut: Cut | None = None, *, owned: bool) -> None:
        """Add a partial output over further keys.

        Args:
            out: Partial output of the block, or of a part of it.
            lse: Its log-sum-exp, fp32.
            cut: Which heads and tokens of the block; ``None`` for all.
            owned: Whether ``out`` and ``lse`` may be kept and changed.
        """
        if cut is None and (self._out is None or self._lse is None):
            # The first partial keeps the kernel's dtype: where it stays the only one, nothing is cast.
            self._out, self._lse = (out, lse) if owned else (out.clone(), lse.clone())
            return
        fold_(*self._views(cut), out, lse)

    def add_all(self, partials: Sequence[tuple[Tensor, Tensor, Cut | None]]) -> None:
        """Add partial outputs, those of the same part of the block at once.

        Args:
            partials: Output, log-sum-exp, and which heads and tokens of the block, of each.
        """
        together: dict[Cut | None, list[tuple[Tensor, Tensor]]] = {}
        for out, lse, cut in partials:
            together.setdefault(cut, []).append((out, lse))
        for cut, others in together.items():
            fold_all_(*self._views(cut), others)

    def _views(self, cut: Cut | None) -> tuple[Tensor, Tensor]:
        """The block, or a part of it, in fp32."""
        if self._out is None or self._lse is None:
            self._out = torch.zeros(self._shape, dtype=torch.float32, device=self._device)
            self._lse = torch.full(self._shape[:-1], -math.inf, dtype=torch.float32, device=self._device)
        self._out = self._out.float()
        if cut is None:
            return self._out, self._lse
        low, high, first, last = cut
        return self._out[:, low:high, first:last], self._lse[:, low:high, first:last]

    def write(self, out: Tensor, lse: Tensor) -> None:
        """Put output and log-sum-exp into memory of their shape, the output in any float dtype."""
        if self._out is None or self._lse is None:
            out.zero_()
            lse.fill_(-math.inf)
        else:
            out.copy_(self._out)
            lse.copy_(self._lse)

    def result(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Output ``[B, H, S, D]`` in ``dtype`` and log-sum-exp ``[B, H, S]``; zeros and ``-inf`` without keys."""
        if self._out is None or self._lse is None:
            empty = torch.zeros(self._shape, dtype=dtype, device=self._device)
            return empty, torch.full(self._shape[:-1], -math.inf, device=self._device)
        return self._out.to(dtype), self._lse
