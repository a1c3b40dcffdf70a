"""Denoising steps of a sweep whose transformer's calls are replayed as CUDA graphs, by strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.bench.plan import Strategy
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.graphs import CudaRecorder, GraphedCalls, Recorder
from tokenring_xdit.hosts.xfuser.graphs import graphed_forward

__all__ = ["CapturedSteps"]

_CALLS = 3
"""Of a pipeline, after which its transformer's calls are replayed: one is rehearsed, and one captured."""

_Draw = Callable[[], Tensor | None]


class CapturedSteps:
    """The calls of a transformer that xfuser has wrapped, each strategy with graphs of its own.

    Args:
        model: The transformer.
        device: Where it computes.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device
        self._recorder: Recorder | None = None
        self._forwards: dict[Strategy, tuple[Callable[..., Any], GraphedCalls]] = {}

    def call(self, strategy: Strategy, launched: _Draw) -> _Draw:
        """A pipeline's call whose transformer's calls are replayed, once they were captured.

        Args:
            strategy: What is captured.
            launched: The call as it is; all ranks make it.

        Returns:
            The call. It raises on all ranks where a call of the transformer cannot be replayed, and says why.
        """
        if self._recorder is None:
            self._recorder = CudaRecorder(self._device)
        if strategy not in self._forwards:
            self._model.eval()  # what xfuser has put around it says that it trains
            self._forwards[strategy] = graphed_forward(self._model, self._recorder)
        forward, graphs = self._forwards[strategy]

        def call() -> Tensor | None:
            with _in_place(self._model, forward):
                latents = launched()
            if graphs.report.eager:
                raise UnsupportedError(f"{strategy} runs without a CUDA graph, as {next(iter(graphs.report.eager))}")
            return latents

        return call

    def replayed(self, strategy: Strategy, call: _Draw) -> Tensor | None:
        """Make the call until it is replayed.

        Returns:
            What replays made.

        Raises:
            UnsupportedError: On all ranks: it cannot be replayed.
        """
        for _ in range(_CALLS):
            before, latents = self._forwards[strategy][1].report.replayed, call()
        report = self._forwards[strategy][1].report
        if report.replayed == before:
            raise UnsupportedError(f"{strategy} was called {_CALLS} times without being replayed: {report}")
        return latents


@contextmanager
def _in_place(model: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, the model has another forward."""
    before = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before
