"""The seam: xfuser's ``ring_attn``, which runs TokenRing where TokenRing was chosen.

Every model that xfuser shards calls ``USP()``, which calls the module global ``ring_attn`` when the
ring degree exceeds one (``xfuser/model_executor/layers/usp.py``, 0.7.0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import token_ring_attention
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.integrations.xfuser.choice import TokenRingChoice, current_choice
from tokenring_xdit.integrations.xfuser.layout import active_layout

__all__ = ["install_dispatcher"]

_KEY_MASKS = ("attn_mask", "valid_kv_len", "indices_k")
"""Entries of ``attention_kwargs`` that hide keys; they describe local keys and are not carried yet."""


def install_dispatcher(usp: Any) -> None:
    """Put the dispatcher in the place of ``usp.ring_attn``; the original keeps serving Ring."""
    original = usp.ring_attn

    def ring_attn(
        attention_function: Callable[..., tuple[Tensor, Tensor]],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        joint_attn_kwargs: dict[str, Any] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        choice = current_choice()
        if choice is None:
            return original(
                attention_function,
                query,
                key,
                value,
                dropout_p=dropout_p,
                is_causal=is_causal,
                joint_attn_kwargs=joint_attn_kwargs,
                attention_kwargs=attention_kwargs,
            )
        if dropout_p:
            raise UnsupportedError(f"TokenRing has no dropout, asked for dropout_p={dropout_p}: use it for inference")
        group = usp.PROCESS_GROUP.RING_PG
        return _token_ring(
            choice, group, attention_function, query, key, value, is_causal, joint_attn_kwargs, attention_kwargs
        )

    ring_attn.__wrapped__ = original  # type: ignore[attr-defined]
    usp.ring_attn = ring_attn


def _token_ring(
    choice: TokenRingChoice,
    group: dist.ProcessGroup,
    attention_function: Callable[..., tuple[Tensor, Tensor]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool,
    joint_attn_kwargs: dict[str, Any] | None,
    attention_kwargs: dict[str, Any] | None,
) -> Tensor:
    hidden = [name for name in _KEY_MASKS if (attention_kwargs or {}).get(name) is not None]
    if hidden:
        raise UnsupportedError(
            f"this model hides keys through attention_kwargs {hidden}, which TokenRing does not carry yet: "
            "use ulysses_degree for it"
        )

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        # Joint tensors are met at home instead of through the decorator, which counts calls.
        out, lse = attention_function(
            q, k, v, dropout_p=0.0, is_causal=causal, joint_attn_kwargs=None, attention_kwargs=attention_kwargs
        )
        if lse is None:
            raise UnsupportedError(
                "the attention backend chosen in xfuser returns no log-sum-exp, which TokenRing needs: "
                "use --attention_backend SDPA_FLASH, CUDNN, FLASH or FLASH_3"
            )
        # Some backends pad the rows of the log-sum-exp, cuDNN adds a dimension.
        return out, lse.reshape(*lse.shape[:2], -1)[:, :, : q.shape[2]]

    home_kv = None
    if joint_attn_kwargs is not None:
        home_kv = (joint_attn_kwargs["joint_key"], joint_attn_kwargs["joint_value"])
    layout = active_layout()
    own = None if layout is None else layout.own(dist.get_rank(group), _ulysses_degree())
    out, _ = token_ring_attention(
        query,
        key,
        value,
        group=group,
        schedule=choice.schedule,
        kernel=kernel,
        causal=is_causal,
        key_mask=own,
        home_kv=home_kv,
        home_mask=None if layout is None or home_kv is None else layout.home,
        layout_key=None if layout is None else layout.key,  # of the whole sequence, which every rank knows
    )
    return out


def _ulysses_degree() -> int:
    from xfuser.core.distributed import get_ulysses_parallel_world_size

    return int(get_ulysses_parallel_world_size())
