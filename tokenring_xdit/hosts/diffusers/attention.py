"""Attention of a sharded transformer, by TokenRing: what diffusers' processors get from what they call.

A processor computes attention with ``dispatch_attention_fn``, which hands the processor's ``_parallel_config`` to the
function that diffusers has for attention over several devices, or, in older models, with torch's
``scaled_dot_product_attention``. In the place of either, for a processor that a :class:`Site` was given, there is ours.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention import KeyMask, token_ring_attention
from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily
from tokenring_xdit.hosts.diffusers.masks import keys_that_count, real_tokens, with_bonus
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.processors import InPlaceOfTorch

__all__ = ["DISPATCH", "KERNELS_OF_BACKENDS", "Site", "answer_dispatch", "plain", "spread"]

DISPATCH = "diffusers.models.attention_dispatch"

KERNELS_OF_BACKENDS: dict[str | None, str | None] = {
    None: None,
    "native": None,
    "_native_cudnn": "cudnn",
    "_native_flash": "flash",
}
"""This package's kernel for one of ``set_attention_backend``; ``None`` is the best one for the device."""

_KERNELS = {
    "_native_attention_forward_op": None,
    "_cudnn_attention_forward_op": "cudnn",
    "_native_flash_attention_forward_op": "flash",
}
"""The same by what a backend of diffusers computes with."""

_MASKS = 64
"""Masks that a module remembers: one for each prompt and size."""

_SITE = "_parallel_config"
"""Where diffusers' processors look for what they hand to attention over several devices."""


@dataclass(frozen=True)
class _KnownMask:
    """A mask as it was read once.

    Attributes:
        keys: Which of this rank's keys count; ``None`` if all do.
        hidden: Which of this rank's queries one process gives no key, ``[B, 1, Sq, 1]``; ``None`` if there is none.
        bonus: Tokens, ``[B, S]``, whose scores among each other are one larger; ``None`` if there are none.
    """

    keys: KeyMask | None = None
    hidden: Tensor | None = None
    bonus: Tensor | None = None


class Site:
    """One attention module, as all ranks compute it.

    Args:
        name: Name of the module.
        schedule: What the ranks exchange and when.
        key: Gives what is equal for calls of the model with the same shapes and masks, on all ranks alike.
        family: What is known of the model.

    Attributes:
        answered: How often it has attended.
    """

    def __init__(self, name: str, schedule: str, key: Callable[[], Hashable], family: DiffusersFamily) -> None:
        self.answered = 0
        self._first = 0
        self._beside = 0
        self._name, self._schedule, self._key = name, schedule, key
        self._pair_masks, self._each_item = family.pair_masks, family.each_item
        self._no_attention = family.no_attention
        self._whole_keys = family.whole_keys
        self._masks: OrderedDict[Hashable, _KnownMask] = OrderedDict()

    def begin(self, hidden_states: Tensor, arguments: Mapping[str, Any]) -> int:
        """A call of the module's processor begins.

        Args:
            hidden_states: What it attends among, ``[B, S, C]``.
            arguments: What it is given beside that, by name.

        Returns:
            How often it has to have attended when it is over.
        """
        self._first = self.answered
        self._beside = len(arguments.get(self._whole_keys) or ())
        if bool(arguments.get(self._no_attention, False)):
            return self.answered
        return self.answered + (hidden_states.shape[0] if self._each_item else 1)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, kernel: str | None
    ) -> Tensor:
        """Attention of this rank's queries to all ranks' keys; then to those that every rank has whole, if any.

        Args:
            q: ``[B, H, Sq, D]``.
            k: ``[B, Hkv, Skv, D]``.
            v: ``[B, Hkv, Skv, D]``.
            mask: As torch's attention takes it.
            scale: Factor on the scores; ``None`` is ``1 / sqrt(D)``.
            kernel: This package's local kernel.

        Returns:
            ``[B, H, Sq, D]``.
        """
        if self._beside and self.answered > self._first:
            self._beside -= 1
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        key = (self._key(), self._name, mask is not None, self.answered - self._first)
        self.answered += 1
        known = self._masks.get(key)
        new = mask is not None and known is None
        if mask is not None and known is None:
            known = self._masks[key] = self._read(mask, q.shape[2], k.shape[2])
            if len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        known = known or _KnownMask()
        width = v.shape[-1]
        if known.bonus is not None:
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            q, k, v = with_bonus(q, k, v, known.bonus, scale)
        out, lse = token_ring_attention(
            q, k, v, schedule=self._schedule, kernel=kernel, scale=scale, key_mask=known.keys, cache_key=key
        )
        if new and bool(lse.isneginf().any()):
            raise UnsupportedError(
                f"all keys are hidden from an item of the batch in {self._name}, where one process attends to all of "
                "them or makes no numbers: leave an item without any text out"
            )
        out = out[..., :width]
        return out if known.hidden is None else out.masked_fill(known.hidden, 0)

    def _read(self, mask: Tensor, queries: int, keys: int) -> _KnownMask:
        if not self._pair_masks:
            return _KnownMask(KeyMask(keys_that_count(mask, queries, keys)))
        real = real_tokens(mask, queries, keys)
        if mask.dtype == torch.bool:
            return _KnownMask(KeyMask(real), ~real[:, None, :, None])
        return _KnownMask(bonus=real)


def spread(processor: Any, site: Site) -> Any:
    """A processor of diffusers that attends all ranks' keys; of the same name, with the same parameters."""
    kind: Any = getattr(type(processor), "_tokenring_plain", type(processor))
    other = copy.copy(processor)
    other.__class__ = _spread_class(kind)
    other._tokenring_site = site
    if hasattr(kind, _SITE):
        setattr(other, _SITE, site)
    return other


def plain(processor: Any) -> Any:
    """The processor as diffusers knows it."""
    kind = getattr(type(processor), "_tokenring_plain", None)
    if kind is None:
        return processor
    other = copy.copy(processor)
    other.__class__ = kind
    del other._tokenring_site
    vars(other).pop(_SITE, None)
    return other


@lru_cache(maxsize=64)
def _spread_class(kind: Any) -> Any:
    original = kind.__call__
    dispatches = hasattr(kind, _SITE)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        site: Site = self._tokenring_site
        before = site.answered
        wanted = site.begin(args[1] if len(args) > 1 else kwargs["hidden_states"], kwargs)
        with nullcontext() if dispatches else _in_place_of_torch(site):
            result = original(self, *args, **kwargs)
        if site.answered != wanted:
            raise UnsupportedError(
                f"{kind.__name__} computed attention over all ranks {site.answered - before} times instead of "
                f"{'once' if wanted == before + 1 else f'{wanted - before} times'}, "
                "so that it did not reach all keys, or some twice: leave the model's attention processors and caches "
                "of keys as they are"
            )
        return result

    body = {
        "__call__": wraps(original)(outside_graphs(call)),
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "_tokenring_plain": kind,
    }
    return type(kind.__name__, (kind,), body)


def _in_place_of_torch(site: Site) -> InPlaceOfTorch:
    """Inside, torch's attention is that of all ranks."""

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,  # heads of keys are told by their number
    ) -> Tensor:
        _refuse(dropout_p, is_causal)
        return site.attend(query, key, value, attn_mask, scale, None)

    return InPlaceOfTorch(attend)


def _refuse(dropout: float, causal: bool) -> None:
    if dropout or causal:
        raise UnsupportedError(
            f"attention among all ranks' tokens was asked for with dropout_p={dropout}, is_causal={causal}, which was "
            "not compared: leave the model's attention processors as they are"
        )


def answer_dispatch(dispatch: Any) -> None:
    """Answer where a transformer was spread over ranks by TokenRing, and leave the rest to diffusers."""
    name = "_templated_context_parallel_attention"
    original = getattr(dispatch, name, None)
    if original is None:
        return  # a diffusers that is too old, where every family is refused
    signature = inspect.signature(original)

    @wraps(original)
    def attend(*args: Any, **kwargs: Any) -> Any:
        site = kwargs.get(_SITE)
        if not isinstance(site, Site):
            return original(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        _refuse(given.get("dropout_p", 0.0), given.get("is_causal", False))
        operator = getattr(given.get("forward_op"), "__name__", "")
        if operator not in _KERNELS or given.get("return_lse", False):
            raise UnsupportedError(
                f"attention of all ranks was asked for with diffusers' {operator or 'kernel'}, which was not compared: "
                "use set_attention_backend('native')"
            )
        q, k, v = (given[each].permute(0, 2, 1, 3) for each in ("query", "key", "value"))
        out = site.attend(q, k, v, given.get("attn_mask"), given.get("scale"), _KERNELS[operator])
        return out.permute(0, 2, 1, 3)

    INSTALLATION.replace(dispatch, name, attend)
