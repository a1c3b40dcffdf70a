"""Merges as one kernel for GPUs, in Triton: each element is read once and written once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["fold_", "merge"]

_TILE = 4096
"""Elements of the output that a program works on."""


def fold_(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> None:
    """What :func:`tokenring_xdit.attention.merge.fold_` does, with tensors of any strides on a GPU."""
    batch, heads, length, head_dim = out.shape
    columns = triton.next_power_of_2(head_dim)
    rows = max(1, _TILE // columns)
    with torch.cuda.device(out.device):
        _fold[(triton.cdiv(length, rows) * batch * heads,)](
            out,
            lse,
            other_out,
            other_lse,
            heads,
            length,
            head_dim,
            *out.stride(),
            *lse.stride(),
            *other_out.stride(),
            *other_lse.stride(),
            ROWS=rows,
            COLUMNS=columns,
        )


class _Places(NamedTuple):
    """Where tensors of one shape and dtype lie that are at one distance from each other, with one left out at most.

    Attributes:
        first: The first of them.
        step: Elements from each to the next.
        gap: Which one is left out; more than there are where none is.
    """

    first: Tensor
    step: int
    gap: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> _Places | None:
        """Those of some tensors, in the order of their memory; ``None`` where it is another one."""
        first = tensors[0]
        if any((t.shape, t.stride(), t.dtype) != (first.shape, first.stride(), first.dtype) for t in tensors):
            return None
        starts = [tensor.data_ptr() for tensor in tensors]
        steps = [after - before for before, after in pairwise(starts)]
        step = min(steps, default=0)
        odd = [place for place, found in enumerate(steps) if found != step]
        if step < 0 or step % first.element_size() or len(odd) > 1 or any(steps[place] != 2 * step for place in odd):
            return None
        return cls(first, step // first.element_size(), odd[0] + 1 if odd else len(tensors))


def merge(
    out: Tensor, lse: Tensor, others: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """What :func:`tokenring_xdit.attention.merge.merge` does; ``None`` where the others lie irregularly."""
    others = sorted(others, key=lambda other: other[0].data_ptr())
    outs, lses = (_Places.of([other[number] for other in others]) for number in range(2))
    if outs is None or lses is None or outs.gap != lses.gap:
        return None
    batch, heads, length, head_dim = out.shape
    result, total = torch.empty_like(out, dtype=dtype), torch.empty_like(lse)
    columns = triton.next_power_of_2(head_dim)
    rows = max(1, _TILE // columns)
    with torch.cuda.device(out.device):
        _merge[(triton.cdiv(length, rows) * batch * heads,)](
            result, total, out, lse, outs.first, lses.first,
            len(others), outs.gap, outs.step, lses.step,
            heads, length, head_dim,
            *result.stride(), *total.stride(), *out.stride(), *lse.stride(), *outs.first.stride(), *lses.first.stride(),
            ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
    return result, total


@triton.jit  # type: ignore[untyped-decorator]
def _share(heads, length, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Item, head and tokens that a program works on; the grid has one dimension, as others end at 65535."""
    blocks = tl.cdiv(length, ROWS)
    head = tl.program_id(0) // blocks
    s = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return (head // heads).to(tl.int64), (head % heads).to(tl.int64), s


@triton.jit  # type: ignore[untyped-decorator]
def _merge(  # type: ignore[no-untyped-def]
    result,
    total,
    out,
    lse,
    other_out,
    other_lse,
    count,
    gap,
    out_step,
    lse_step,
    heads,
    length,
    head_dim,
    result_b,
    result_h,
    result_s,
    result_d,
    total_b,
    total_h,
    total_s,
    out_b,
    out_h,
    out_s,
    out_d,
    lse_b,
    lse_h,
    lse_s,
    other_out_b,
    other_out_h,
    other_out_s,
    other_out_d,
    other_lse_b,
    other_lse_h,
    other_lse_s,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Merge some rows of one head."""
    b, h, s = _share(heads, length, ROWS)
    d = tl.arange(0, COLUMNS)
    here = s < length
    there = here[:, None] & (d < head_dim)[None, :]
    out += b * out_b + h * out_h + s[:, None] * out_s + d[None, :] * out_d
    other_out += b * other_out_b + h * other_out_h + s[:, None] * other_out_s + d[None, :] * other_out_d
    other_lse += b * other_lse_b + h * other_lse_h + s * other_lse_s
    top = tl.load(lse + b * lse_b + h * lse_h + s * lse_s, mask=here, other=0.0)
    weights = tl.exp(top - tl.where(top == float("-inf"), 0.0, top))  # of all so far: 1, 0, or NaN
    summed = tl.load(out, mask=there, other=0.0).to(tl.float32) * weights[:, None]
    for number in range(count):
        place = (number + (number >= gap)).to(tl.int64)
        found = tl.load(other_lse + place * lse_step, mask=here, other=0.0)
        change = tl.load(other_out + place * out_step, mask=there, other=0.0).to(tl.float32)
        highest = tl.maximum(top, found)
        least = tl.where(highest == float("-inf"), 0.0, highest)
        before = tl.exp(top - least)
        weight = tl.exp(found - least)
        summed = summed * before[:, None] + tl.where(weight[:, None] == 0.0, 0.0, change * weight[:, None])
        weights = weights * before + weight
        top = highest
    nobody = weights == 0.0
    summed = tl.where(nobody[:, None], 0.0, summed / weights[:, None])
    result += b * result_b + h * result_h + s[:, None] * result_s + d[None, :] * result_d
    tl.store(result, summed.to(result.dtype.element_ty), mask=there)
    total += b * total_b + h * total_h + s * total_s
    tl.store(total, tl.where(nobody, float("-inf"), top + tl.log(weights)), mask=here)


@triton.jit  # type: ignore[untyped-decorator]
def _fold(  # type: ignore[no-untyped-def]
    out,
    lse,
    other_out,
    other_lse,
    heads,
    length,
    head_dim,
    out_b,
    out_h,
    out_s,
    out_d,
    lse_b,
    lse_h,
    lse_s,
    other_out_b,
    other_out_h,
    other_out_s,
    other_out_d,
    other_lse_b,
    other_lse_h,
    other_lse_s,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Fold some rows of one head."""
    b, h, s = _share(heads, length, ROWS)
    d = tl.arange(0, COLUMNS)
    here = s < length
    there = here[:, None] & (d < head_dim)[None, :]
    lse += b * lse_b + h * lse_h + s * lse_s
    other_lse += b * other_lse_b + h * other_lse_h + s * other_lse_s
    out += b * out_b + h * out_h + s[:, None] * out_s + d[None, :] * out_d
    other_out += b * other_out_b + h * other_out_h + s[:, None] * other_out_s + d[None, :] * other_out_d
    mine = tl.load(lse, mask=here, other=0.0)
    other = tl.load(other_lse, mask=here, other=0.0)
    empty = other == float("-inf")
    weight = tl.where(empty, 0.0, tl.sigmoid(other - mine))
    before = tl.load(out, mask=there, other=0.0)
    change = tl.load(other_out, mask=there, other=0.0).to(tl.float32) - before
    tl.store(out, before + weight[:, None] * change, mask=there)
    top = tl.maximum(mine, other)
    total = top + tl.log(tl.exp(mine - top) + tl.exp(other - top))
    tl.store(lse, tl.where(empty, mine, total), mask=here)
