"""Attention of a block of queries over a block of keys on one rank: what every kernel leaves to its caller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tokenring_xdit.attention.kernels import CountedFunction, KernelFunction
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.schedule.lower.program import KernelCall

__all__ = ["BlockAttention", "LocalAttention", "nothing"]


class BlockAttention(Protocol):
    """Attends blocks on one rank, for the executor."""

    def __call__(
        self, q: Tensor, items: Sequence[tuple[Tensor, ...]], step: KernelCall | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Attend keys and values that all items of the batch share, or a list of those of each item.

        Args:
            q: ``[B, H, Sq, D]``.
            items: One pair ``[B, Hkv, Skv, D]`` of keys and values, with how many of each item count where they differ
                in that, or ``B`` pairs ``[1, Hkv, Skv, D]``.
            step: What is attended; ``None`` for joint keys.

        Returns:
            Output ``[B, H, Sq, D]`` and log-sum-exp ``[B, H, Sq]`` in fp32, or ``None`` where there is none to attend.
        """

    def keys_of_each_item(self, mask: KeyMask | None, k: Tensor, v: Tensor) -> list[tuple[Tensor, ...]] | None:
        """The keys and values of each item of the batch, where the items hide different ones; else ``None``.

        They are one entry, with the number of each item's keys, where the kernel can be told that.
        """


def nothing(q: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of queries that have attended no key."""
    return q.new_zeros(q.shape), torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)


class LocalAttention:
    """A kernel that also takes empty blocks, grouped heads and keys that differ in length from item to item.

    Args:
        kernel: Computes attention of one block.
        scale: What scores are multiplied by; ``None`` is ``1 / sqrt(D)``.
        counted: The same with the key counts of samples on the device; ``None`` for a kernel that takes none.
    """

    def __init__(self, kernel: KernelFunction, scale: float | None, counted: CountedFunction | None = None) -> None:
        self.kernel, self._scale, self._counted = kernel, scale, counted

    def __call__(
        self, q: Tensor, items: Sequence[tuple[Tensor, ...]], step: KernelCall | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """As :class:`BlockAttention`."""
        causal = step is not None and step.causal
        if len(items) == 1:
            return self._attend(q, *items[0], causal=causal)
        out, lse = nothing(q)
        for item, (k, v) in enumerate(items):
            partial = self._attend(q[item : item + 1], k, v, causal=causal)
            if partial is not None:
                out[item : item + 1], lse[item : item + 1] = partial
        return out, lse

    def keys_of_each_item(self, mask: KeyMask | None, k: Tensor, v: Tensor) -> list[tuple[Tensor, ...]] | None:
        """As :class:`BlockAttention`."""
        if mask is None or not mask.ragged:
            return None
        if self._counted is not None:
            return [mask.counted(k, v)]
        return [mask.item(item, k, v) for item in range(k.shape[0])]

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, counts: Tensor | None = None, *, causal: bool
    ) -> tuple[Tensor, Tensor] | None:
        if not q.numel() or not k.numel():
            return None
        if k.shape[1] != q.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
        if counts is None or self._counted is None:
            out, lse = self.kernel(q, k, v, scale=self._scale, causal=causal)
        else:
            out, lse = self._counted(q, k, v, counts, scale=self._scale)
        return out, lse.float()
