"""A partial output and its log-sum-exp as one message: bytes, the output in its travelling dtype, then the fp32 LSE."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tokenring_xdit.schedule.lower.landing import partial_places
from tokenring_xdit.schedule.problem import Shape

__all__ = ["PartialForm", "partial_form"]


class PartialForm(NamedTuple):
    """How a partial output lies in its message.

    Attributes:
        shape: Shape of the output, ``[B, H, S, D]``.
        dtype: Dtype in which it travels.
        end: Byte behind the output.
        offset: Byte at which the log-sum-exp starts.
        size: Bytes of the message.
    """

    shape: Shape
    dtype: torch.dtype
    end: int
    offset: int
    size: int

    def views(self, message: Tensor) -> tuple[Tensor, Tensor]:
        """Output ``[B, H, S, D]`` and log-sum-exp ``[B, H, S]`` inside a message."""
        out = message[: self.end].view(self.dtype).view(self.shape)
        return out, message[self.offset :].view(torch.float32).view(self.shape[:-1])


@lru_cache(maxsize=1024)
def partial_form(shape: Shape, dtype: torch.dtype) -> PartialForm:
    """How a partial output ``[B, H, S, D]`` travels."""
    return PartialForm(shape, dtype, *partial_places(shape, dtype.itemsize))
