"""FlashAttention: torch's of many lengths, Dao's packages. All take ``[B, S, H, D]``, and most take key counts.

Signatures follow torch 2.13 (``torch/nn/attention/varlen.py``), FlashAttention 2 and 3 (``flash_attn_interface.py``)
and FlashAttention 4 (``flash_attn/cute/interface.py``, by the entry that torch uses too). They put the causal mask into
the lower right corner, which is ours where there are as many queries as keys.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.errors import KernelError

__all__ = [
    "FLASH_3",
    "FLASH_4",
    "flash_3",
    "flash_4",
    "flash_4_counted",
    "flash_attn",
    "missing_flash_4",
    "missing_varlen",
    "padded",
    "varlen",
    "varlen_counted",
    "without_keys",
]

_Result = tuple[Tensor, Tensor]

FLASH_3, FLASH_4 = "flash_attn_interface (FlashAttention 3)", "flash_attn.cute (flash-attn-4)"
"""What has to be installed."""

_VARLEN = "torch.nn.attention.varlen"

_CUTE = "flash_attn.cute.interface"


@cache
def missing_varlen() -> str | None:
    """Why torch's kernel for many lengths is not there."""
    try:
        has = hasattr(importlib.import_module(_VARLEN), "varlen_attn_out")
    except ImportError:
        has = False
    return None if has else "needs torch.nn.attention.varlen.varlen_attn_out, as torch 2.13 has it"


def varlen(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Torch's flash kernel for sequences of many lengths, all of one length here."""
    _refuse_uneven(q, k, causal)
    return _varlen(q, k, v, None, scale, causal)


def varlen_counted(q: Tensor, k: Tensor, v: Tensor, counts: Tensor, *, scale: float | None) -> _Result:
    """The same, with the key counts of samples on the device."""
    return without_keys(*_varlen(q, k, v, counts, scale, False), counts)


def _varlen(q: Tensor, k: Tensor, v: Tensor, counts: Tensor | None, scale: float | None, causal: bool) -> _Result:
    batch, _, queries, dim = q.shape
    keys = k.shape[2]
    (query, key, value), scale = padded(q, k, v, scale)
    query, key, value = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))  # [B * S, H, D]
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    ends = [torch.arange(0, (batch + 1) * n, n, dtype=torch.int32, device=q.device) for n in (queries, keys)]
    module = importlib.import_module(_VARLEN)
    window = (-1, 0) if causal else (-1, -1)
    options: dict[str, Any] = {"return_aux": module.AuxRequest(lse=True), "scale": scale, "window_size": window}
    if counts is not None:
        options["seqused_k"] = counts
    _, lse = module.varlen_attn_out(out, query, key, value, *ends, queries, keys, **options)
    out = out.view(batch, queries, *out.shape[1:]).transpose(1, 2)[..., :dim]
    return out, lse.view(-1, batch, queries).transpose(0, 1)  # from [H, B * S]


def flash_attn(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """Dao's flash-attn package."""
    _refuse_uneven(q, k, causal)
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    return _dense(flash_attn_func, q, k, v, scale, causal=causal, return_attn_probs=True)


def flash_3(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """FlashAttention 3, for Hopper; its first releases return the log-sum-exp whether it is asked for or not."""
    _refuse_uneven(q, k, causal)
    function = importlib.import_module("flash_attn_interface").flash_attn_func
    asked = {"return_attn_probs": True} if "return_attn_probs" in inspect.signature(function).parameters else {}
    return _dense(function, q, k, v, scale, causal=causal, **asked)


def flash_4(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> _Result:
    """FlashAttention 4, for Hopper and Blackwell."""
    _refuse_uneven(q, k, causal)
    return _flash_4(q, k, v, scale, causal=causal)


def flash_4_counted(q: Tensor, k: Tensor, v: Tensor, counts: Tensor, *, scale: float | None) -> _Result:
    """The same, with the key counts of samples on the device."""
    return without_keys(*_flash_4(q, k, v, scale, seqused_k=counts), counts)


@cache
def missing_flash_4() -> str | None:
    """Why FlashAttention 4 cannot be used: FlashAttention 2 brings the folder too, with an early form of it."""
    try:
        version("flash-attn-4")
        names = inspect.signature(importlib.import_module(_CUTE)._flash_attn_fwd).parameters
    except PackageNotFoundError:
        return f"needs the package {FLASH_4}"
    except Exception as error:  # it compiles, and asks for other packages, while it is imported
        said = str(error).strip().partition("\n")[0]
        return f"cannot be imported ({type(error).__name__}: {said}): install flash-attn-4 anew, with what it needs"
    lacking = [name for name in ("return_lse", "seqused_k") if name not in names]
    return f"needs a flash-attn-4 whose kernel takes {' and '.join(lacking)}" if lacking else None


def _flash_4(q: Tensor, k: Tensor, v: Tensor, scale: float | None, **options: Any) -> _Result:
    function = importlib.import_module(_CUTE)._flash_attn_fwd
    return _dense(function, q, k, v, scale, return_lse=True, **options)


def _dense(
    function: Callable[..., tuple[Tensor, ...]], q: Tensor, k: Tensor, v: Tensor, scale: float | None, **options: Any
) -> _Result:
    wide, scale = padded(q, k, v, scale)
    out, lse, *_ = function(*(t.transpose(1, 2) for t in wide), softmax_scale=scale, **options)
    return out.transpose(1, 2)[..., : q.shape[3]], lse


def padded(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """Heads in one piece, whose width is a multiple of eight, and the scale, which the added zeros do not change."""
    scale = 1.0 / math.sqrt(q.shape[3]) if scale is None else scale
    if q.shape[3] % 8:
        q, k, v = (pad(t, (0, -t.shape[3] % 8)) for t in (q, k, v))
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v))
    return (q, k, v), scale


def without_keys(out: Tensor, lse: Tensor, counts: Tensor) -> _Result:
    """0 and ``-inf`` for items without keys, of which some kernels say ``+inf``."""
    some = (counts > 0)[:, None, None]
    return torch.where(some[..., None], out, 0.0), torch.where(some, lse, -math.inf)


def _refuse_uneven(q: Tensor, k: Tensor, causal: bool) -> None:
    if causal and q.shape[2] != k.shape[2]:
        raise KernelError(
            f"this kernel's causal mask needs as many queries as keys, and there are {q.shape[2]} queries "
            f"and {k.shape[2]} keys: use kernel 'math'"
        )
