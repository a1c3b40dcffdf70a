"""Differences between versions of transformers, from 4.57 on."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

__all__ = ["CACHE_NAMES", "cache_name", "query_count", "register_attention"]

CACHE_NAMES = ("cache", "past_key_values")
"""What the argument with the cache is called: the first from 5.24 on, the second before; both are taken there."""


def cache_name(forward: Callable[..., Any]) -> str:
    """What a model calls its cache."""
    return next(name for name in CACHE_NAMES if name in signature(forward).parameters)


def query_count(queries: int | Tensor) -> int:
    """How many queries a cache is asked about: older versions pass their places."""
    return queries if isinstance(queries, int) else len(queries)


def register_attention(name: str, attention: Callable[..., Any], mask: Callable[..., Any]) -> None:
    """Make an attention implementation known, with what makes its masks.

    Args:
        name: What it is called.
        attention: ``attention(module, query, key, value, attention_mask, **kwargs)``.
        mask: Called with keyword arguments, such as ``mask_function`` and ``local_size``.
    """
    AttentionInterface.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, mask)
