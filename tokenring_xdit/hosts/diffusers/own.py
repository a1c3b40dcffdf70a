"""Diffusers' own context parallel, ring and Ulysses, as its users get it: for comparisons, never for ``parallelize``.

Of diffusers 0.42.1 (``modeling_utils.py``, ``attention_dispatch.py``). Two things of it do not work on processors, and
are helped here: it counts accelerators to tell which is a rank's, and divides by their number; and its ring asks the
default kernel for a log-sum-exp, which that does not return. The exchanges and sums are its own everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor

from tokenring_xdit.attention.kernels import KERNELS
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.diffusers.attention import DISPATCH
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.meters import SentBytes

__all__ = ["count_own_traffic", "own_attention", "refusal_of_own", "spread_by_diffusers"]

_OLDEST = "0.42"

_ON_GPUS = "_native_cudnn"
"""The backend of both on a GPU: its default kernel has no log-sum-exp, and this one xfuser takes too."""


def refusal_of_own(cut: dict[str, int], heads: int, ranks: int, dtype: str, *, ring: bool) -> str | None:
    """Why diffusers' own context parallel does not take a model, or ``None`` where it does.

    Args:
        cut: Lengths that it cuts, by what they are of.
        heads: Heads of attention.
        ranks: Ranks.
        dtype: Dtype of the model.
        ring: Whether it is the ring; Ulysses otherwise.
    """
    if Version(version("diffusers")) < Version(_OLDEST):
        return f"diffusers {version('diffusers')} is installed, and {_OLDEST} is the oldest whose own was run"
    for what, length in cut.items():
        if length % ranks:
            return (
                f"diffusers cuts {length} {what} evenly, which {ranks} ranks do not divide: use another length, or a "
                "schedule"
            )
    if not ring and heads % ranks:
        return f"diffusers' Ulysses shards {heads} heads, which {ranks} ranks do not divide: use a schedule"
    if dtype == "float32" and torch.cuda.is_available():
        return f"diffusers' {_ON_GPUS} takes no float32: use bfloat16"
    return None


def spread_by_diffusers(transformer: Any, ranks: int, *, ring: bool) -> None:
    """Spread a transformer of diffusers over all ranks, which call this together.

    Raises:
        UnsupportedError: Diffusers does not do so.
    """
    on_gpus = next(transformer.parameters()).device.type == "cuda"
    config = import_module("diffusers").ContextParallelConfig(**{"ring_degree" if ring else "ulysses_degree": ranks})
    with ExitStack() as stack:
        if on_gpus:
            _take_backend(transformer)
        else:
            why = "diffusers divides by the number of accelerators, of which there are none"
            stack.enter_context(INSTALLATION.replaced(torch.accelerator, "device_count", lambda: 1, why))
        try:
            transformer.enable_parallelism(config=config)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise UnsupportedError(f"diffusers' own context parallel: {error}") from error


def _take_backend(transformer: Any) -> None:
    """Set the backend of this transformer alone: ``set_attention_backend`` sets that of all others too."""
    backend = import_module(DISPATCH).AttentionBackendName(_ON_GPUS)
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if processor is not None and hasattr(processor, "_attention_backend"):
            processor._attention_backend = backend


@contextmanager
def own_attention(device: torch.device) -> Iterator[None]:
    """Inside, diffusers' ring has a kernel with a log-sum-exp on processors: torch's own, as its default one is."""
    if device.type != "cpu":
        yield
        return
    dispatch, name = import_module(DISPATCH), "_native_attention_forward_op"
    original = getattr(dispatch, name)

    @wraps(original)
    def with_log_sum_exp(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        return_lse: bool = False,
        **options: Any,
    ) -> Any:
        if not return_lse:
            rest = attn_mask, dropout_p, is_causal, scale, enable_gqa, return_lse
            return original(ctx, query, key, value, *rest, **options)
        if attn_mask is not None or dropout_p or is_causal or enable_gqa:
            raise UnsupportedError("diffusers' ring was asked for on a processor with a mask, dropout or grouped heads")
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))
        out, lse = KERNELS["cpu"].run(q, k, v, scale=scale, causal=False)
        return out.transpose(1, 2), lse.transpose(1, 2)

    with INSTALLATION.replaced(dispatch, name, with_log_sum_exp, "its ring asks for a log-sum-exp"):
        yield


@contextmanager
def count_own_traffic(ranks: int, *, ring: bool) -> Iterator[SentBytes]:
    """Count what the attention calls inside send from this rank, by the shapes that they are called with."""
    dispatch, name = import_module(DISPATCH), "_templated_context_parallel_attention"
    original, traffic = getattr(dispatch, name), SentBytes()

    @wraps(original)
    def counting(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        out = original(query, key, value, *args, **options)
        if ring:  # all of them to every other rank
            traffic.bytes += _bytes((key, value)) * (ranks - 1)
        else:  # all but a share of everything, and of the output
            traffic.bytes += _bytes((query, key, value, query)) * (ranks - 1) // ranks
        return out

    with INSTALLATION.replaced(dispatch, name, counting, "counts what attention sends"):
        yield traffic


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
