"""What xfuser 0.7.0 gets wrong with its kernels for attention on one rank."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.hosts.installation import INSTALLATION

__all__ = ["HOOKS"]


def compute_fp32(backends: Any) -> None:
    """Let torch's memory-efficient kernel compute what is in fp32, where xfuser takes cuDNN's.

    xfuser 0.7.0: cuDNN's is what it takes on NVIDIA GPUs, and it calls the operator past the checks of torch. The
    kernel is for bf16 and fp16, and what it makes of fp32 is NaN (on an H100, torch 2.11). That is so under every
    strategy, and nobody wants NaN: it is repaired whether TokenRing was chosen or not. The other kernel's log-sum-exp
    has padded rows, which xfuser's ring could not merge: it is cut to the queries.
    """
    kernels, kinds = backends.ATTENTION_FUNCTION_REGISTRY, backends.AttentionBackendType
    cudnn, efficient = kernels[kinds.CUDNN], kernels[kinds.SDPA_EFFICIENT]

    @wraps(efficient)
    def cut(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        out, lse = efficient(*args, **kwargs)
        return out, lse[..., : out.shape[2]]

    @wraps(cudnn)
    def attend(query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if query.dtype is not torch.float32:
            half: tuple[Tensor, Tensor] = cudnn(query, *args, **kwargs)
            return half
        return cut(query, *args, **kwargs)

    for kind, function in ((kinds.CUDNN, attend), (kinds.SDPA_EFFICIENT, cut)):
        INSTALLATION.put(
            kernels, kind, function, "xfuser.core.distributed.attention_backend.ATTENTION_FUNCTION_REGISTRY"
        )


HOOKS = {"xfuser.core.distributed.attention_backend": compute_fp32}
