"""The kernels that come with the package.

Signatures follow ``torch`` 2.13 (``aten/src/ATen/native/native_functions.yaml``) and ``flash-attn``
2.6 (``flash_attn_interface.py``). The CUDA ones were not run by this project: no machine it was
built on has a GPU.
"""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.attention.kernels.registry import Kernel, register

__all__ = ["cpu_flash", "cudnn", "efficient", "flash_attn", "math_attention", "torch_flash"]

_FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
_HALVES = frozenset({torch.bfloat16, torch.float16})
_CUDA = frozenset({"cuda"})
_MATH_SCORES = 1 << 24
"""Scores held at once by the plain kernel: 64 MiB in fp32."""


def math_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
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


def cpu_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Torch's fused CPU kernel."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    return out, lse


def torch_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Torch's flash kernel for CUDA, which wants head dims that are multiples of eight."""
    dim = q.shape[-1]
    scale = 1.0 / math.sqrt(dim) if scale is None else scale
    missing = -dim % 8
    if missing:  # zero columns change neither the scores nor the kept columns of the output
        q, k, v = (pad(t, (0, missing)) for t in (q, k, v))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    return out[..., :dim], lse[..., : q.shape[2]]


def efficient(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Torch's memory-efficient kernel for CUDA, which pads the log-sum-exp to a multiple of 32."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal, scale=scale)
    return out, lse[..., : q.shape[2]]


def cudnn(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    """CuDNN's kernel through torch, which returns the log-sum-exp as ``[B, H, Sq, 1]``."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return out, lse.reshape(q.shape[:-1])


def flash_attn(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Dao's flash-attn package, which works on ``[B, S, H, D]``."""
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    out, lse, _ = flash_attn_func(
        *(t.transpose(1, 2) for t in (q, k, v)),
        softmax_scale=scale,
        causal=causal,
        return_attn_probs=True,
    )
    return out.transpose(1, 2), lse


def _no_flash_attn() -> str | None:
    return None if importlib.util.find_spec("flash_attn") else "needs the package flash-attn"


register(Kernel("math", math_attention, frozenset({"cpu", "cuda"}), _FLOATS, preference=0))
register(Kernel("cpu", cpu_flash, frozenset({"cpu"}), _FLOATS, preference=10))
register(Kernel("efficient", efficient, _CUDA, _FLOATS, preference=10, ran_here=False))
register(Kernel("cudnn", cudnn, _CUDA, _HALVES, preference=20, ran_here=False))
register(Kernel("flash", torch_flash, _CUDA, _HALVES, preference=30, ran_here=False))
register(Kernel("flash_attn", flash_attn, _CUDA, _HALVES, preference=40, missing=_no_flash_attn, ran_here=False))
