"""Diffusers' caches in a sharded transformer: which are right there, which decide together, which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.layout import active_layout
from tokenring_xdit.hosts.running import RUNNING

__all__ = ["HOOKS", "Together", "refuse_cache"]

_COMPARED = frozenset(
    {
        "faster_cache_block",
        "faster_cache_denoiser",
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


@dataclass(frozen=True)
class Together:
    """Ranks that compute a transformer together, while it runs.

    Attributes:
        group: Their process group.
        rank: This one among them.
        tokens: How many tokens the picture has, where that is known; ranks have as many each, with padding at the end.
    """

    group: dist.ProcessGroup
    rank: int
    tokens: int | None


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
            "PyramidAttentionBroadcastConfig, FasterCacheConfig, FirstBlockCacheConfig, MagCacheConfig or "
            "TaylorSeerCacheConfig"
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


def _real(together: Together, local: int) -> int | None:
    """How many of this rank's tokens are no padding; ``None`` where that is not known."""
    layout = active_layout()
    if layout is None or not layout.hides_keys:
        return local
    if together.tokens is None:
        return None
    return max(0, min(local, together.tokens - together.rank * local))


def decide_by_the_whole(first_block_cache: Any) -> None:
    """Let FirstBlockCache decide by the data of all ranks, where they compute a transformer together."""
    head = first_block_cache.FBCHeadBlockHook
    original = head._should_compute_remaining_blocks

    @wraps(original)
    def should_compute(self: Any, residual: Tensor) -> bool:
        together = RUNNING.together
        real = None if together is None else _real(together, residual.shape[1])
        if together is not None and real is None:
            raise UnsupportedError(
                "FirstBlockCache would measure padding or hidden text along with the picture: use a size and a text "
                "length that the ranks divide, or do without FirstBlockCacheConfig"
            )
        state = self.state_manager.get_state()
        if together is None or state.head_block_residual is None:
            decided: bool = original(self, residual)
            return decided
        now, before = residual[:, :real], state.head_block_residual[:, :real]
        sums = torch.stack([(now - before).abs().sum(), before.abs().sum()]).double()
        dist.all_reduce(sums, group=together.group)
        changed, size = sums
        return bool((changed / size > self.threshold).item())

    INSTALLATION.replace(head, "_should_compute_remaining_blocks", outside_graphs(should_compute))


HOOKS = {"diffusers.hooks.first_block_cache": decide_by_the_whole}
