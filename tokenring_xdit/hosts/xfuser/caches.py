"""Diffusers' caches in a sharded transformer: which are right there, which decide together, which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from diffusers.hooks import first_block_cache
from torch import Tensor

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.layout import active_layout

__all__ = ["deciding_together", "refuse_cache"]

_COMPARED = frozenset(
    {
        "fbc_block_hook",
        "fbc_leader_block_hook",
        "group_offloading",
        "layerwise_casting",
        "lazy_prefetch_group_offloading",
        "layer_execution_tracker",
        "mag_cache_block_hook",
        "mag_cache_leader_block_hook",
        "peft_autocast_disable",
        "pyramid_attention_broadcast",
        "taylorseer_cache",
    }
)
"""Hooks that leave out or repeat work by the number of the step, whatever is in the tensors, or decide together."""

_together = False
"""Whether a sharded transformer is running."""

_tokens: int | None = None
"""How many tokens its picture has, where that is known; ranks have as many each, with padding at the end."""


def refuse_cache(hooks: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Refuse hooks of diffusers on a module that were not compared with one process.

    Args:
        hooks: By name, as diffusers registers them.
        dtype: In which the transformer computes.

    Raises:
        UnsupportedError: There is one.
    """
    unknown = [name for name in hooks if name not in _COMPARED]
    if unknown:
        raise UnsupportedError(
            f"diffusers' hook '{unknown[0]}' was put on the transformer, which would decide by this rank's part of "
            "the picture or was not compared: disable it (pipe.transformer.disable_cache()), or use "
            "PyramidAttentionBroadcastConfig, FirstBlockCacheConfig, MagCacheConfig or TaylorSeerCacheConfig"
        )
    if "taylorseer_cache" in hooks:
        _refuse_coarse_factors(hooks["taylorseer_cache"].taylor_factors_dtype, dtype)


def _refuse_coarse_factors(factors: torch.dtype, model: torch.dtype) -> None:
    """What is rounded to fewer digits than the model has differs by whole steps of them from one process."""
    if torch.finfo(factors).eps > torch.finfo(model).eps:
        raise UnsupportedError(
            f"TaylorSeerCacheConfig(taylor_factors_dtype={factors}) rounds what it extrapolates from more coarsely "
            f"than the transformer computes ({model}), so that ranks together make another picture than one process: "
            f"use taylor_factors_dtype={model}"
        )


def deciding_together(together: bool, tokens: int | None = None) -> None:
    """Say whether a sharded transformer runs: what caches decide by data is then decided by the data of all ranks.

    Args:
        together: Whether it does.
        tokens: Of the whole picture, where they are known.
    """
    global _together, _tokens
    _together, _tokens = together, tokens


def _real(local: int) -> int | None:
    """How many of this rank's tokens are no padding; ``None`` where that is not known."""
    layout = active_layout()
    if layout is None or not layout.hides_keys:
        return local
    if _tokens is None:
        return None
    from xfuser.core.distributed import get_sequence_parallel_rank

    return max(0, min(local, _tokens - int(get_sequence_parallel_rank()) * local))


def _decide_by_the_whole(original: Any) -> Any:
    @wraps(original)
    def should_compute(self: Any, residual: Tensor) -> bool:
        state = self.state_manager.get_state()
        real = _real(residual.shape[1]) if _together else None
        if _together and real is None:
            raise UnsupportedError(
                "FirstBlockCache would measure padding or hidden text along with the picture: use a size and a text "
                "length that the ranks divide, or do without FirstBlockCacheConfig"
            )
        if not _together or state.head_block_residual is None:
            decided: bool = original(self, residual)
            return decided
        from xfuser.core.distributed import get_sp_group

        now, before = residual[:, :real], state.head_block_residual[:, :real]
        sums = torch.stack([(now - before).abs().sum(), before.abs().sum()]).double()
        dist.all_reduce(sums, group=get_sp_group().device_group)
        changed, size = sums
        return bool((changed / size > self.threshold).item())

    return torch.compiler.disable(should_compute)  # type: ignore[no-untyped-call]


_head = first_block_cache.FBCHeadBlockHook
_head._should_compute_remaining_blocks = _decide_by_the_whole(_head._should_compute_remaining_blocks)
