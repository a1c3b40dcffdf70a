"""What is measured of attention in host libraries: how long a rank is inside its calls, and what it sends for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch

__all__ = ["SentBytes", "Stopwatch"]


class Stopwatch:
    """Adds up calls. On GPUs moments are marks in the stream, so that nothing waits for being timed.

    Args:
        device: Where they compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._marks = device.type == "cuda"
        self._moments: list[tuple[Any, Any]] = []

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A function of which every call is timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            result = call(*args, **kwargs)
            self._moments.append((start, self._now()))
            return result

        return timed

    @property
    def seconds(self) -> float:
        """Of all calls so far, once they are over on the device too."""
        if self._marks:  # not run on a GPU
            return float(sum(start.elapsed_time(end) for start, end in self._moments)) / 1e3
        return float(sum(end - start for start, end in self._moments))

    def _now(self) -> Any:
        if not self._marks:
            return time.perf_counter()
        mark: Any = cast(Any, torch.cuda.Event)(enable_timing=True)  # not run on a GPU
        mark.record()
        return mark


class SentBytes:
    """Payload bytes that this rank hands to the network for attention.

    Attributes:
        bytes: For Ulysses what its all-to-alls send to other ranks, for a ring of a host library what the
            all-gather of keys and values delivers to the others, for TokenRing what its sends carry.
            Headers, and the final gather of the picture, are not in it.
    """

    def __init__(self) -> None:
        self.bytes = 0
