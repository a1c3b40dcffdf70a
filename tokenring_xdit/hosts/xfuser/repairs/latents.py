"""How the latents of xfuser's own pipelines are shared out while they are denoised, and the whole of them again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.hosts.xfuser.family import Shares

__all__ = ["share_of", "whole_of"]


def whole_of(shares: Shares, own: Tensor) -> Tensor:
    """Put the shares of the sequence-parallel ranks together, without padding; all of them call it.

    Rows and tokens both lie in the last dimension but one: ``[B, C, H, W]``, ``[B, C, F, H, W]``, ``[B, F, C, H, W]``
    and ``[B, T, C]``.

    Args:
        shares: What a rank holds.
        own: This rank's share.
    """
    if shares is Shares.WHOLE:
        return own
    from xfuser.core.distributed import get_runtime_state, get_sp_group

    starts, _ = _places(shares, get_runtime_state())
    parts = get_sp_group().all_gather(own.contiguous(), separate_tensors=True)
    joined = torch.cat([share[..., a:b, :] for a, b in pairwise(starts) for share in parts], dim=-2)
    return joined[..., : _real(shares), :]


def share_of(shares: Shares, whole: Tensor) -> Tensor:
    """This rank's share of what :func:`whole_of` made."""
    if shares is Shares.WHOLE:
        return whole
    from xfuser.core.distributed import get_runtime_state

    _, places = _places(shares, get_runtime_state())
    missing = max(end for _, end in places) - whole.shape[-2]
    padded = pad(whole, (0, 0, 0, missing)) if missing > 0 else whole
    return torch.cat([padded[..., a:b, :] for a, b in places], dim=-2)


def _places(shares: Shares, state: Any) -> tuple[list[int], list[list[int]]]:
    """Where the patches of PipeFusion begin in a rank's share, and where this rank's lie in the whole."""
    if shares is Shares.TOKENS:
        return state.pp_patches_token_start_idx_local, state.pp_patches_token_start_end_idx_global
    return state.pp_patches_start_idx_local, state.pp_patches_start_end_idx_global


def _real(shares: Shares) -> int | None:
    """How many tokens are no padding; ``None`` where none is."""
    from xfuser.core.distributed import get_runtime_state

    tokens: int | None = getattr(get_runtime_state(), "tokenring_real_tokens", None)
    return tokens if shares is Shares.TOKENS else None
