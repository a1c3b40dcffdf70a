"""The kernels that come with the package.

Signatures follow ``torch`` 2.13 (``aten/src/ATen/native/native_functions.yaml``) and ``flash-attn``
2.6 (``flash_attn_interface.py``). On GPUs cuDNN's comes first, as in xfuser
(``runtime_state.py``, 0.7.0): on an H100 it was 1.9 times as fast as torch's flash (docs/gpu.md).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.attention.kernels.registry import Kernel, KernelFunction, register

__all__ = ["cpu_flash", "cudnn", "efficient", "flash_attn", "math_attention", "torch_flash"]

_Result = tuple[Tensor, Tensor]

_FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
_HALVES = frozenset({torch.bfloat16, torch.float16})
_MATH_SCORES = 1 << 24
"""Scores held at once by the plain kernel: 64 MiB in fp32."""


def math_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Plain softmax in fp32, some query rows at a time; on any device."""
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    kt, vf = k.float().transpose(-1, -2), v.float()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    rows = max(1, _MATH_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    for start in range(0, q.shape[2], rows):
        part = slice(start, start + rows)
        scores = (q[:, :, part].float() * scale) @ kt
        if causal:
            position = torch.arange(q.shape[2], device=q.device)[part]
            later = torch.arange(k.shape[2], device=q.device) > position[:, None]
            scores.masked_fill_(later, -math.inf)
        lse[:, :, part] = torch.logsumexp(scores, dim=-1)
        out[:, :, part] = (torch.softmax(scores, dim=-1) @ vf).to(q.dtype)
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
    scale = 1.0 / math.sqrt(dim) if scale is None else scale
    if dim % 8:
        q, k, v = (pad(t, (0, -dim % 8)) for t in (q, k, v))
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


def cudnn(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """CuDNN's kernel through torch."""
    op = torch.ops.aten._scaled_dot_product_cudnn_attention
    return _padded(partial(op, attn_bias=None, compute_log_sumexp=True, is_causal=causal), q, k, v, scale)


def flash_attn(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Dao's flash-attn package, which works on ``[B, S, H, D]``."""
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    out, lse, _ = flash_attn_func(
        *(t.transpose(1, 2) for t in (q, k, v)),
        softmax_scale=scale,
        causal=causal,
        return_attn_probs=True,
    )
    return out.transpose(1, 2), lse


@cache
def _before_ampere() -> str | None:
    return None if torch.cuda.get_device_capability() >= (8, 0) else "needs a GPU of compute capability 8.0 or higher"


@cache
def _no_flash_attn() -> str | None:
    if importlib.util.find_spec("flash_attn") is None:
        return "needs the package flash-attn"
    return _before_ampere()


def _cuda(
    name: str,
    run: KernelFunction,
    preference: int,
    dtypes: frozenset[torch.dtype] = _HALVES,
    missing: Callable[[], str | None] = _before_ampere,
    ran_here: bool = True,
) -> None:
    register(Kernel(name, run, frozenset({"cuda"}), dtypes, preference, missing, ran_here))


register(Kernel("math", math_attention, frozenset({"cpu", "cuda"}), _FLOATS, preference=0))
register(Kernel("cpu", cpu_flash, frozenset({"cpu"}), _FLOATS, preference=10))
_cuda("efficient", efficient, 10, _FLOATS, missing=lambda: None)
_cuda("flash", torch_flash, 20)
_cuda("flash_attn", flash_attn, 30, missing=_no_flash_attn, ran_here=False)
_cuda("cudnn", cudnn, 40)
