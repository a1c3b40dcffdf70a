"""What transformers calls for attention and for masks while a parallel model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention import token_ring_attention
from tokenring_xdit.compat.transformers import register_attention
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.transformers.current import Forward, current_forward
from tokenring_xdit.hosts.transformers.kernels import Scores
from tokenring_xdit.planning.pairs import Plan, plan_pairs

__all__ = ["NAME", "Pattern", "attention", "mask", "register"]

NAME = "tokenring"
"""The attention implementation, as transformers names them."""

_HARMLESS = frozenset({"position_ids", "use_cache", "cache_position", "return_dict", "output_attentions"})
"""What layers hand down to attention, and what changes nothing there."""

_FARTHEST = 1 << 20


@dataclass(frozen=True)
class Pattern:
    """Which keys a query sees by its place: those up to its own, or the last ``window`` of them."""

    window: int | None


def mask(
    *, mask_function: Any, local_size: int | None = None, use_vmap: bool = False, config: Any = None, **_: Any
) -> Pattern:
    """The pattern of a mask, in the place of a mask; transformers calls it for each kind of layer.

    Padding is not looked at here: it is in the forward pass that is under way.

    Raises:
        UnsupportedError: It is neither a causal mask nor one with a window.
    """
    current_forward()
    window = None if local_size is None else int(local_size)
    if use_vmap or not _is_causal(mask_function, window):
        raise UnsupportedError(
            f"{getattr(config, 'model_type', 'this model')} asks for an attention mask that is neither causal nor "
            "causal with a window (tokens that see later ones, documents in one row, chunks): only those two were "
            "compared with one process; call the model without parallelize"
        )
    return Pattern(window)


def _is_causal(mask_function: Any, window: int | None) -> bool:
    """Whether a function of places is a causal mask, with a window where there is one, where the two may differ."""
    queries, keys = [], []
    for query in (0, 1, 7, 1000, _FARTHEST):
        edge = query - (window or 0)
        for key in {0, query - 1, query, query + 1, query + 9, edge - 1, edge, edge + 1}:
            if key >= 0:
                queries.append(query)
                keys.append(key)
    q, k = torch.tensor(queries), torch.tensor(keys)
    wanted = k <= q if window is None else (k <= q) & (k > q - window)
    try:
        found = mask_function(torch.zeros_like(q), torch.zeros_like(q), q, k)
    except (IndexError, RuntimeError):  # it looks places up in what this call brings
        return False
    return bool((torch.as_tensor(found).expand_as(wanted) == wanted).all())


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a layer may be compiled round it
def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a layer over the keys of all ranks.

    Args:
        module: The layer's attention.
        query: ``[B, H, T_r, D]``: of the tokens that this rank computes.
        key: ``[B, Hkv, S_r, D]``: what the cache holds of this layer on this rank.
        value: Its values.
        attention_mask: A :class:`Pattern`.
        scaling: Factor on the scores.
        dropout: Has to be 0.
        sliding_window: The layer's window, where it says it.
        softcap: Cap of the scores.
        s_aux: A further term of the softmax for each head, ``[H]``.
        **others: What layers hand down besides.

    Returns:
        ``[B, T_r, H, D]``, and no weights.

    Raises:
        UnsupportedError: The layer asks for what was not compared.
    """
    forward = current_forward()
    if forward.heed is not None:
        forward.heed()
    layer = forward.cache.layers[module.layer_idx]
    asked = {name: value for name, value in others.items() if name not in _HARMLESS and value is not None}
    if asked.pop("is_causal", True) is not True or any(value is not False for value in asked.values()):
        _refuse(forward, f"attention with {', '.join(sorted(asked)) or 'is_causal=False'}")
    if dropout:
        _refuse(forward, "dropout")
    if not query.dtype == key.dtype == value.dtype:
        _refuse(forward, f"queries in {query.dtype}, keys in {key.dtype} and values in {value.dtype}")
    window = attention_mask.window if isinstance(attention_mask, Pattern) else -1
    if window != layer.window or sliding_window not in (None, window):
        _refuse(forward, f"a window of {sliding_window} with a mask of {window} and a cache of {layer.window}")
    if (s_aux is not None) > forward.family.sinks or (softcap is not None) > forward.family.softcap:
        _refuse(forward, "attention sinks" if s_aux is not None else "capped scores")
    scores = Scores(query.shape[-1] ** -0.5 if scaling is None else float(scaling), window, softcap)
    plan = _plan(forward, window, layer.first)
    if _is_plain(forward, scores):
        out, lse = token_ring_attention(
            query,
            key,
            value,
            schedule=forward.schedule,
            scale=scores.scale,
            causal=True,
            cache_key=(NAME, forward.new),
        )
    elif forward.sharded:
        out, lse = forward.exchanges.attend_sharded(
            query, key, value, plan, scores, forward.valid, forward.way_in(window)
        )
    else:
        out, lse = forward.exchanges.attend_everywhere(query, key, value, plan, scores, forward.valid)
    if s_aux is not None:
        out = out * share_of_keys(lse, s_aux).unsqueeze(-1)
    if forward.cache.transient:
        layer.drop()
    return out.to(query.dtype).transpose(1, 2).contiguous(), None


def _is_plain(forward: Forward, scores: Scores) -> bool:
    """Whether this is causal attention of a whole sequence and nothing else, for which there are proved schedules."""
    plain = forward.past == 0 and forward.valid is None and scores.window is None and scores.softcap is None
    return forward.sharded and forward.way is None and plain


def share_of_keys(lse: Tensor, sinks: Tensor) -> Tensor:
    """How much of a softmax ``[B, H, T]`` all keys together have beside a sink for each head, ``[H]``."""
    return torch.sigmoid(lse - sinks.float()[None, :, None])


def _plan(forward: Forward, window: int | None, first: int) -> Plan:
    """Who needs which keys of whom: the same for all layers with this window."""
    if (window, first) not in forward.plans:
        forward.plans[window, first] = plan_pairs(forward.placement, forward.queries, window, first)
    return forward.plans[window, first]


def _refuse(forward: Forward, what: str) -> None:
    raise UnsupportedError(
        f"a layer of {forward.family.title} asks for {what}, which was not compared with one process: call the model "
        "without parallelize"
    )


def register() -> None:
    """Make the two known to transformers."""
    register_attention(NAME, attention, mask)
