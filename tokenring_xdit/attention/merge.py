"""Online softmax: folding partial attention outputs into one (Milakov and Gimelshein, arXiv 1805.02867)."""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["Running", "fold_", "fold_with_torch"]


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


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


class Running:
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

    def fold(self, out: Tensor, lse: Tensor, part: tuple[slice, slice] | None = None, *, owned: bool) -> None:
        """Fold in a partial over further keys.

        Args:
            out: Partial output of the block, or of a part of it.
            lse: Its log-sum-exp, fp32.
            part: Which heads and tokens of the block; ``None`` for all.
            owned: Whether ``out`` and ``lse`` may be kept and changed.
        """
        if self._out is None or self._lse is None:
            if part is None:
                self._out = out if owned else out.clone()
                self._lse = lse if owned else lse.clone()
                return
            self._out = torch.zeros(self._shape, dtype=torch.float32, device=self._device)
            self._lse = torch.full(self._shape[:-1], -math.inf, dtype=torch.float32, device=self._device)
        # The first partial keeps the kernel's dtype: where it stays the only one, nothing is cast.
        self._out = self._out.float()
        if part is None:
            fold_(self._out, self._lse, out, lse)
        else:
            where = slice(None), *part
            fold_(self._out[where], self._lse[where], out, lse)

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
