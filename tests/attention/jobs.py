"""What the worker ranks run in the attention tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention import token_ring_attention


@dataclass(frozen=True)
class Case:
    """One attention problem, sharded."""

    q_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    schedule: str = "token_ring"
    kernel: str | None = None
    dtype: torch.dtype = torch.float32
    batch: int = 1
    heads: int = 3
    kv_heads: int = 3
    head_dim: int = 16
    causal: bool = False
    scale: float | None = None
    home: int = 0
    strided: bool = False
    partial_dtype: torch.dtype | None = None
    calls: int = 1


def problem(case: Case) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """The same global tensors on every rank."""
    generator = torch.Generator().manual_seed(hash(case.q_lengths) % 2**31)

    def make(heads: int, length: int) -> Tensor:
        shape = (case.batch, length, heads, case.head_dim)
        tensor = torch.randn(shape, generator=generator).to(case.dtype).transpose(1, 2)
        return tensor if case.strided else tensor.contiguous()

    q, k, v = (
        make(heads, sum(lengths))
        for heads, lengths in (
            (case.heads, case.q_lengths),
            (case.kv_heads, case.kv_lengths),
            (case.kv_heads, case.kv_lengths),
        )
    )
    home = (make(case.kv_heads, case.home), make(case.kv_heads, case.home)) if case.home else None
    return q, k, v, home


def errors(case: Case) -> dict[str, Any]:
    """Run a case; this rank's errors against fp64, and those of torch's own attention on one device."""
    rank = dist.get_rank()
    q, k, v, home = problem(case)
    q_part = slice(sum(case.q_lengths[:rank]), sum(case.q_lengths[: rank + 1]))
    kv_part = slice(sum(case.kv_lengths[:rank]), sum(case.kv_lengths[: rank + 1]))
    all_k, all_v = (
        torch.cat([t, h], dim=2) if h is not None else t for t, h in zip((k, v), home or (None, None), strict=True)
    )
    visible = None
    if case.causal:
        visible = torch.arange(k.shape[2]) <= torch.arange(q.shape[2])[:, None]
    expected, expected_lse = softmax_attention(q, all_k, all_v, scale=case.scale, visible=visible)
    expected, expected_lse = expected[:, :, q_part], expected_lse[:, :, q_part]
    # The kernel's own error: the best any one-device implementation of this dtype does.
    single = torch.nn.functional.scaled_dot_product_attention(
        q, all_k, all_v, is_causal=case.causal, scale=case.scale, enable_gqa=True
    )[:, :, q_part]
    shards = (q[:, :, q_part], k[:, :, kv_part], v[:, :, kv_part])
    copies = [t.clone() for t in shards]
    for _ in range(case.calls):
        out, lse = token_ring_attention(
            *shards,
            schedule=case.schedule,
            kernel=case.kernel,
            causal=case.causal,
            scale=case.scale,
            home_kv=home,
            partial_dtype=case.partial_dtype,
        )
    assert out.shape == shards[0].shape and out.dtype == case.dtype and lse.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(shards, copies, strict=True)), "inputs were changed"
    if not out.numel():
        return {"out": 0.0, "lse": 0.0, "single": 0.0}
    scale = softmax_attention(q, all_k, all_v, scale=case.scale, visible=visible)[0].abs().max()
    return {
        "out": ((out.double() - expected).abs().max() / scale).item(),
        "lse": relative_error(lse, expected_lse),
        "single": ((single.double() - expected).abs().max() / scale).item(),
    }
