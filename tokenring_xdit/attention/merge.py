"""Online softmax: merging partial attention outputs into one (Milakov and Gimelshein, arXiv 1805.02867)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from tokenring_xdit.schedule.lower.program import Cut

__all__ = ["Accumulator", "fold_", "fold_with_torch", "merge"]


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


def merge(
    out: Tensor, lse: Tensor, others: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Attention over several sets of keys, from the attention over each of them.

    Each is weighted by ``exp(its lse - lse of all)``, in fp32; where nobody saw a key the output is 0. On a GPU it is
    one kernel, where Triton is installed and the others lie in memory at one distance.

    Args:
        out: Output over the first keys, ``[B, H, S, D]``, any float dtype.
        lse: Its log-sum-exp, ``[B, H, S]``, fp32.
        others: Output in any float dtype and log-sum-exp of each of the others, shaped alike.
        dtype: Dtype of the output.

    Returns:
        Output ``[B, H, S, D]`` and log-sum-exp ``[B, H, S]``, of its own memory.
    """
    if out.is_cuda and _has_triton():
        from tokenring_xdit.attention import fused

        merged = fused.merge(out, lse, others, dtype)
        if merged is not None:
            return merged
    every = torch.stack([lse, *(other_lse for _, other_lse in others)])
    total = torch.logsumexp(every, 0)
    weights = torch.exp(every - total.masked_fill(total == -math.inf, 0.0)).unsqueeze(-1)
    result = out.float() * weights[0]
    for (other_out, _), weight in zip(others, weights[1:], strict=True):
        result.addcmul_(other_out.float(), weight)
    return result.to(dtype), total


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
        self._parts: dict[Cut, tuple[Tensor, Tensor]] = {}  # apart from each other, before there is a whole

    def add(self, out: Tensor, lse: Tensor, cut: Cut | None = None, *, owned: bool) -> None:
        """Add a partial output over further keys.

        Args:
            out: Partial output of the block, or of a part of it.
            lse: Its log-sum-exp, fp32.
            cut: Which heads and tokens of the block; ``None`` for all.
            owned: Whether ``out`` and ``lse`` may be kept and changed.
        """
        if self._out is None and owned and cut is not None and not any(_overlap(cut, part) for part in self._parts):
            self._parts[cut] = out, lse
            return
        if cut is None and self._out is None and not self._parts:
            # The first partial keeps the kernel's dtype: where it stays the only one, nothing is cast.
            self._out, self._lse = (out, lse) if owned else (out.clone(), lse.clone())
            return
        fold_(*self._views(cut), out, lse)

    def add_all(self, partials: Sequence[tuple[Tensor, Tensor, Cut | None]], dtype: torch.dtype) -> None:
        """Add partial outputs, those of the same part of the block at once.

        Args:
            partials: Output, log-sum-exp, and which heads and tokens of the block, of each.
            dtype: Of the sum where all of them are of the whole block: that of the result, if nothing else is added.
        """
        together: dict[Cut | None, list[tuple[Tensor, Tensor]]] = {}
        for out, lse, cut in partials:
            together.setdefault(cut, []).append((out, lse))
        if self._out is None and self._put_together(together):
            return
        if len(together) > 1:  # what is added to again stays in fp32
            dtype = torch.float32
        for cut, others in together.items():
            if cut is not None:
                own_out, own_lse = self._views(cut)
                merged_out, merged_lse = merge(own_out, own_lse, others, torch.float32)
                own_out.copy_(merged_out)
                own_lse.copy_(merged_lse)
                continue
            if self._parts:
                self._views(None)
            if self._out is None or self._lse is None:
                (first, first_lse), *rest = others
                merged = merge(first, first_lse, rest, dtype) if rest else (first.clone(), first_lse.clone())
            else:
                merged = merge(self._out, self._lse, others, dtype)
            self._out, self._lse = merged

    def _put_together(self, others: Mapping[Cut | None, Sequence[tuple[Tensor, Tensor]]]) -> bool:
        """Make one tensor of parts of the block that are each other's neighbours, if they are; nothing is merged."""
        parts = dict(self._parts)
        for cut, found in others.items():
            if cut is None or cut in parts or len(found) > 1:
                return False
            (parts[cut],) = found
        for dim in (1, 2):
            cuts = sorted(parts, key=lambda cut: _bounds(cut, dim))
            ends = [0, *(_bounds(cut, dim)[1] for cut in cuts)]
            across = {_bounds(cut, 3 - dim) for cut in cuts}
            starts = [_bounds(cut, dim)[0] for cut in cuts]
            if starts == ends[:-1] and ends[-1] == self._shape[dim] and across == {(0, self._shape[3 - dim])}:
                outs, lses = zip(*(parts[cut] for cut in cuts), strict=True)
                self._out, self._lse = torch.cat(outs, dim), torch.cat(lses, dim)
                self._parts.clear()
                return True
        return False

    def _views(self, cut: Cut | None) -> tuple[Tensor, Tensor]:
        """The block, or a part of it, in fp32."""
        if self._out is None or self._lse is None:
            self._out = torch.zeros(self._shape, dtype=torch.float32, device=self._device)
            self._lse = torch.full(self._shape[:-1], -math.inf, dtype=torch.float32, device=self._device)
            for (low, high, first, last), (out, lse) in self._parts.items():
                self._out[:, low:high, first:last] = out
                self._lse[:, low:high, first:last] = lse
            self._parts.clear()
        self._out = self._out.float()
        if cut is None:
            return self._out, self._lse
        low, high, first, last = cut
        return self._out[:, low:high, first:last], self._lse[:, low:high, first:last]

    def write(self, out: Tensor, lse: Tensor) -> None:
        """Put output and log-sum-exp into memory of their shape, the output in any float dtype."""
        if self._parts:
            self._views(None)
        if self._out is None or self._lse is None:
            out.zero_()
            lse.fill_(-math.inf)
        else:
            out.copy_(self._out)
            lse.copy_(self._lse)

    def result(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Output ``[B, H, S, D]`` in ``dtype`` and log-sum-exp ``[B, H, S]``; zeros and ``-inf`` without keys."""
        if self._parts:
            self._views(None)
        if self._out is None or self._lse is None:
            empty = torch.zeros(self._shape, dtype=dtype, device=self._device)
            return empty, torch.full(self._shape[:-1], -math.inf, device=self._device)
        return self._out.to(dtype), self._lse


def _bounds(cut: Cut, dim: int) -> tuple[int, int]:
    """Of heads, or of tokens."""
    return (cut[0], cut[1]) if dim == 1 else (cut[2], cut[3])


def _overlap(one: Cut, other: Cut) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1]) and max(one[2], other[2]) < min(one[3], other[3])
