"""The kernels that come with the package.

Signatures follow ``torch`` 2.13 (``aten/src/ATen/native/native_functions.yaml``). On GPUs cuDNN's comes first, as in
xfuser (``runtime_state.py``, 0.7.0): on an H100 it was 1.9 times as fast as torch's flash (docs/gpu.md). What nobody
has run here comes behind it, and is taken where cuDNN's does not fit, or by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tokenring_xdit.attention.kernels import flash
from tokenring_xdit.attention.kernels.registry import Kernel, register

__all__ = ["cpu_flash", "cudnn", "efficient", "efficient_counted", "math_attention", "math_counted", "torch_flash"]

_Result = tuple[Tensor, Tensor]

_FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
_HALVES = frozenset({torch.bfloat16, torch.float16})
_ALIGNED = 16
"""Scores of a query's mask in memory are a multiple of it, as torch's own attention has it for this kernel."""

_MATH_SCORES = 1 << 24
"""Scores held at once by the plain kernel: 64 MiB in fp32."""


def math_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Plain softmax in fp32, some query rows at a time; on any device."""
    keys = torch.arange(k.shape[2], device=q.device)
    positions = torch.arange(q.shape[2], device=q.device)
    return _plain(q, k, v, scale, lambda rows: keys > positions[rows, None] if causal else None)


def math_counted(q: Tensor, k: Tensor, v: Tensor, counts: Tensor, *, scale: float | None) -> _Result:
    """The same over the first keys of each item, as many as are counted on the device."""
    hidden = (torch.arange(k.shape[2], device=q.device) >= counts[:, None])[:, None, None]
    v = v.masked_fill(hidden.transpose(2, 3), 0.0)  # 0 times what nobody made may be NaN
    return _plain(q, k, v, scale, lambda rows: hidden)


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float | None, hidden: Callable[[slice], Tensor | None]) -> _Result:
    """Softmax over the keys that are not hidden from some rows."""
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    kt, vf = k.float().transpose(-1, -2), v.float()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    rows = max(1, _MATH_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    for start in range(0, q.shape[2], rows):
        part = slice(start, start + rows)
        scores = (q[:, :, part].float() * scale) @ kt
        left_out = hidden(part)
        if left_out is not None:
            scores.masked_fill_(left_out, -math.inf)
        sums = lse[:, :, part] = torch.logsumexp(scores, dim=-1)
        weights = torch.softmax(scores, dim=-1)
        if left_out is not None:
            weights.masked_fill_((sums == -math.inf)[..., None], 0.0)  # of no keys at all it is NaN
        out[:, :, part] = (weights @ vf).to(q.dtype)
    return out, lse


def cpu_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Torch's fused CPU kernel."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    return out, lse


def _padded(op: Callable[..., tuple[Tensor, ...]], q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> _Result:
    """Call a CUDA op that wants head dims that are multiples of eight.

    Zero columns change neither the scores nor the columns of the output that are kept. The ops pad
    the rows of the log-sum-exp (memory-efficient), or add a dimension to it (cuDNN).
    """
    dim = q.shape[-1]
    (q, k, v), scale = flash.padded(q, k, v, scale)
    out, lse, *_ = op(q, k, v, scale=scale)
    return out[..., :dim], lse.reshape(*q.shape[:2], -1)[..., : q.shape[2]]


def torch_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Torch's flash kernel for CUDA."""
    op = torch.ops.aten._scaled_dot_product_flash_attention
    return _padded(partial(op, dropout_p=0.0, is_causal=causal, return_debug_mask=False), q, k, v, scale)


def efficient(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Torch's memory-efficient kernel for CUDA."""
    op = torch.ops.aten._scaled_dot_product_efficient_attention
    return _padded(partial(op, attn_bias=None, compute_log_sumexp=True, is_causal=causal), q, k, v, scale)


def efficient_counted(q: Tensor, k: Tensor, v: Tensor, counts: Tensor, *, scale: float | None) -> _Result:
    """The same, with what is behind the keys of an item hidden by an additive mask."""
    keys = k.shape[2]
    behind = torch.arange(keys + -keys % _ALIGNED, device=q.device) >= counts[:, None]
    bias = torch.zeros(behind.shape, dtype=q.dtype, device=q.device).masked_fill_(behind, -math.inf)[:, :keys]
    bias = bias[:, None, None].expand(*q.shape[:3], keys)
    op = torch.ops.aten._scaled_dot_product_efficient_attention
    result = _padded(partial(op, attn_bias=bias, compute_log_sumexp=True, is_causal=False), q, k, v, scale)
    return flash.without_keys(*result, counts)


def cudnn(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """CuDNN's kernel through torch; it has none for a single key, which torch's own takes."""
    if k.shape[2] == 1:
        return efficient(q, k, v, scale=scale, causal=causal)
    op = torch.ops.aten._scaled_dot_product_cudnn_attention
    return _padded(partial(op, attn_bias=None, compute_log_sumexp=True, is_causal=causal), q, k, v, scale)


register(Kernel("math", math_attention, frozenset({"cpu", "cuda"}), _FLOATS, preference=0, counted=math_counted))
register(Kernel("cpu", cpu_flash, frozenset({"cpu"}), _FLOATS, preference=10))

_GPU = frozenset({"cuda"})
_AMPERE = (8, 0)


def _missing_cudnn() -> str | None:
    return None if torch.version.hip is None else "is NVIDIA's, and this torch is built for ROCm"


# What each takes, torch asks of them too before it chooses one (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp).
register(
    Kernel(
        "efficient",
        efficient,
        _GPU,
        _FLOATS,
        preference=10,
        least_for_bfloat16=_AMPERE,
        counted=efficient_counted,
    )
)
register(Kernel("flash", torch_flash, _GPU, _HALVES, preference=20, least_capability=_AMPERE, most_head_dim=256))
register(
    Kernel(
        "varlen",
        flash.varlen,
        _GPU,
        _HALVES,
        preference=15,
        least_capability=_AMPERE,
        most_head_dim=256,
        missing=flash.missing_varlen,
        counted=flash.varlen_counted,
        ran_here=False,
    )
)
register(
    Kernel(
        "flash_attn",
        flash.flash_attn,
        _GPU,
        _HALVES,
        preference=30,
        least_capability=_AMPERE,
        most_head_dim=256,
        module="flash_attn (flash-attn)",
        ran_here=False,
    )
)
register(
    Kernel(
        "flash_3",
        flash.flash_3,
        _GPU,
        _HALVES,
        preference=31,
        majors=frozenset({9}),
        most_head_dim=256,
        module=flash.FLASH_3,
        ran_here=False,
    )
)
register(
    Kernel(
        "flash_4",
        flash.flash_4,
        _GPU,
        _HALVES,
        preference=32,
        majors=frozenset({9, 10}),
        most_head_dim=128,
        missing=flash.missing_flash_4,
        counted=flash.flash_4_counted,
        ran_here=False,
    )
)
register(
    Kernel(
        "cudnn",
        cudnn,
        _GPU,
        _HALVES,
        preference=40,
        least_capability=_AMPERE,
        most_head_dim=128,
        wider_heads={9: 256},
        missing=_missing_cudnn,
    )
)
