"""How long a rank is inside attention calls of Flux, communication included: xfuser's and those of diffusers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from tokenring_xdit.hosts.xfuser.install import register

__all__ = ["Stopwatch", "time_flux_attention"]


class Stopwatch:
    """Adds up calls. On GPUs moments are marks in the stream, so that nothing waits for being timed.

    Args:
        device: Where they compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._marks = device.type == "cuda"
        self._moments: list[tuple[Any, Any]] = []

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call and time it."""
        start = self._now()
        result = call(*args, **kwargs)
        self._moments.append((start, self._now()))
        return result

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


@contextmanager
def time_flux_attention(device: torch.device) -> Iterator[Stopwatch]:
    """Time the attention calls of Flux transformers inside, of xfuser's and of the unmodified one.

    Args:
        device: Where they compute.
    """
    register()
    from diffusers.models.transformers import transformer_flux as unmodified
    from xfuser.model_executor.models.transformers import transformer_flux as sharded

    watch = Stopwatch(device)
    originals = [(sharded, "USP", sharded.USP), (unmodified, "dispatch_attention_fn", unmodified.dispatch_attention_fn)]
    for owner, name, original in originals:
        setattr(owner, name, _timed(watch, original))
    try:
        yield watch
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _timed(watch: Stopwatch, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return watch.run(original, *args, **kwargs)

    return call
