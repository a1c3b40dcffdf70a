"""What a call's arguments have to be: each mistake is one sentence, whatever was passed."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention.kernels import choose
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.dtypes import DTYPES as DTYPE_NAMES
from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import KernelError, TokenRingError, UnsupportedError
from tokenring_xdit.schedule import Auto, Mask, VerifiedSchedule, build

__all__ = ["DTYPES", "check_masks", "check_tensors", "check_types", "resolve", "why_not_on_device"]

DTYPES = tuple(map(torch_dtype, DTYPE_NAMES))
"""Of queries, keys and values."""


def check_types(
    q: Any,
    k: Any,
    v: Any,
    *,
    kernel: Any,
    scale: Any,
    causal: Any,
    key_mask: Any,
    joint_kv: Any,
    joint_mask: Any,
    partial_dtype: Any,
    cache_key: Any,
) -> None:
    """Refuse what is of another type than the signature says.

    Raises:
        UnsupportedError: Something is.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise UnsupportedError(f"{name} has to be a tensor, got {_described(tensor)}")
        _check_layout(name, tensor)
    if joint_kv is not None:
        pair = isinstance(joint_kv, (tuple, list)) and len(joint_kv) == 2
        if not pair or not all(isinstance(tensor, Tensor) for tensor in joint_kv):
            raise UnsupportedError(f"joint_kv has to be two tensors, keys and values, got {_described(joint_kv)}")
        for tensor in joint_kv:
            _check_layout("joint_kv", tensor)
    for name, mask in (("key_mask", key_mask), ("joint_mask", joint_mask)):
        if mask is not None and not isinstance(mask, (Tensor, KeyMask)):
            raise UnsupportedError(f"{name} has to be a bool tensor [B, Skv] or a KeyMask, got {_described(mask)}")
    if not isinstance(causal, bool):
        raise UnsupportedError(f"causal has to be True or False, got {_described(causal)}")
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if scale is not None and not (number and math.isfinite(scale)):
        raise UnsupportedError(f"scale has to be a finite number or None, got {_described(scale)}")
    if partial_dtype is not None and not isinstance(partial_dtype, torch.dtype):
        raise UnsupportedError(f"partial_dtype has to be a torch.dtype or None, got {_described(partial_dtype)}")
    if kernel is not None and not isinstance(kernel, str) and not callable(kernel):
        raise UnsupportedError(f"kernel has to be a name, a function or None, got {_described(kernel)}")
    if not _hashable(cache_key):
        raise UnsupportedError(
            f"cache_key has to be hashable, such as a number or a tuple of numbers, got {_described(cache_key)}"
        )


def check_tensors(q: Tensor, k: Tensor, v: Tensor, joint_kv: tuple[Tensor, Tensor] | None) -> None:
    """Refuse shapes that do not fit, and gradients.

    Raises:
        UnsupportedError: They do not.
    """
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise UnsupportedError(f"expected q [B, H, Sq, D] and k and v [B, Hkv, Skv, D] alike, got {shapes}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise UnsupportedError(f"q and k differ in batch or head dim: {shapes}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise UnsupportedError(f"{q.shape[1]} query heads are no multiple of {k.shape[1]} key heads: {shapes}")
    # Without this a backward pass would leave out, and not miss, what came from other ranks.
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v, *(joint_kv or ()))):
        raise UnsupportedError(
            "q, k, v or joint_kv require gradients, and TokenRing has no backward pass: call it, or the model, under "
            "torch.inference_mode() or torch.no_grad(), as pipelines do"
        )


def resolve(schedule: Any, world_size: int, causal: bool, heads: int) -> VerifiedSchedule:
    """The schedule of a call.

    Raises:
        ScheduleError: There is none of this name for this number of ranks.
        UnsupportedError: It is none, or made for other ranks or another mask.
    """
    mask = Mask.CAUSAL if causal else Mask.FULL
    if isinstance(schedule, str):
        return build(schedule, world_size, mask, heads)
    if not isinstance(schedule, VerifiedSchedule):
        raise UnsupportedError(
            f"a schedule has to be a name or a VerifiedSchedule, not {_described(schedule)}: "
            "pass it through tokenring_xdit.schedule.verify() first"
        )
    plan = schedule.schedule
    if (plan.world_size, plan.mask) != (world_size, mask):
        raise UnsupportedError(
            f"schedule '{plan.name}' is for {plan.world_size} ranks with a {plan.mask.value} mask; "
            f"this call has {world_size} ranks and a {mask.value} mask"
        )
    return schedule


def why_not_on_device(schedule: str, ranks: int, q: Tensor, k: Tensor, *, kernel: str | None = None) -> str | None:
    """Why a call cannot have a :class:`DeviceKeyMask`, in a clause; ``None`` where it can, or is refused anyhow.

    Args:
        schedule: A name, or that of ``auto``, which chooses one that can.
        ranks: Ranks of the group.
        q: Queries, ``[B, H, Sq, D]``.
        k: Keys, ``[B, Hkv, Skv, D]``.
        kernel: The name of the kernel that attends; ``None`` for the best one.
    """
    try:
        choose(kernel, q.device, q.dtype, q.shape[3], counting=True)
    except KernelError as error:
        return f"no kernel reads key counts on the device: {error}"
    try:
        auto = Auto.parse(schedule)
        if auto is not None:
            return None if auto.nodes == 1 else f"schedule '{schedule}' sends keys between nodes"
        whole = resolve(schedule, ranks, False, math.gcd(q.shape[1], k.shape[1])).keys_stay_whole
    except TokenRingError:
        return None
    return None if whole else f"schedule '{schedule}' sends keys, or cuts them"


def check_masks(
    k: Tensor,
    joint_kv: tuple[Tensor, Tensor] | None,
    key_mask: KeyMask | Tensor | None,
    joint_mask: KeyMask | Tensor | None,
    causal: bool,
    verified: VerifiedSchedule | None,
) -> tuple[KeyMask | None, KeyMask | None]:
    """Check the masks against the keys and the schedule.

    Raises:
        UnsupportedError: They do not fit.
    """
    if joint_mask is not None and joint_kv is None:
        raise UnsupportedError("joint_mask hides keys of joint_kv, which was not passed")
    checked: list[KeyMask | None] = []
    for name, keys, given in (
        ("key_mask", k, key_mask),
        ("joint_mask", k if joint_kv is None else joint_kv[0], joint_mask),
    ):
        mask = KeyMask(given) if isinstance(given, Tensor) else given
        if mask is not None:
            mask.check(keys, name)
            if causal:
                raise UnsupportedError(f"{name} with causal=True is not supported: hide keys or use a causal mask")
        checked.append(mask)
    own, home = checked
    if own is not None and own.ragged and verified is not None and not verified.keys_stay_whole:
        raise UnsupportedError(
            f"the samples of this batch have different attention masks, and schedule '{verified.schedule.name}' sends "
            f"or splits keys: use schedule '{DEFAULT_SCHEDULE}', where keys stay on their rank, or one call for each "
            "sample"
        )
    return own, home


def _check_layout(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        raise UnsupportedError(f"{name} has to be a dense tensor, got one of layout {tensor.layout}")


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (int, float, str)):
        return repr(value)[:100]
    return f"a {type(value).__name__}"


def _hashable(value: Hashable) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
