"""The merge as one kernel for GPUs, in Triton: each element is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["fold_"]

_TILE = 4096
"""Elements of the output that a program works on."""


def fold_(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> None:
    """What :func:`tokenring_xdit.attention.merge.fold_` does, with tensors of any strides on a GPU."""
    batch, heads, length, head_dim = out.shape
    columns = triton.next_power_of_2(head_dim)
    rows = max(1, _TILE // columns)
    with torch.cuda.device(out.device):
        _fold[(triton.cdiv(length, rows), batch * heads)](
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
    b = (tl.program_id(1) // heads).to(tl.int64)
    h = (tl.program_id(1) % heads).to(tl.int64)
    s = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
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
