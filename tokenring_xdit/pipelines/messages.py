"""What an engine and its ranks tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenring_xdit.graphs import GraphReport
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.request import Request

__all__ = ["ServeRequest", "Served", "Setup", "StepDone"]


@dataclass(frozen=True)
class Setup:
    """To a rank, first: what to load and how to share it.

    Attributes:
        model: Folder or hub name.
        dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.
        dims: How the ranks are divided.
        attention_backend: xfuser's kernel for attention on one rank.
        timeout: Seconds after which ranks give up waiting for each other.
        cuda_graphs: Whether calls of the transformer are replayed as CUDA graphs.
    """

    model: str
    dtype: str
    dims: ParallelDims
    attention_backend: str = "auto"
    timeout: float = 1800.0
    cuda_graphs: bool = False


@dataclass(frozen=True)
class ServeRequest:
    """To a rank: serve a request. The first one answers with a :class:`Served`, the others with ``None``.

    Attributes:
        request: The request.
        preview: Whether each step is shown.
    """

    request: Request
    preview: bool


@dataclass(frozen=True)
class Served:
    """From the first rank: a request is served.

    Attributes:
        media: What was made.
        graphs: What became of the transformers' calls so far, by name, where they are replayed as CUDA graphs.
    """

    media: list[Any]
    graphs: dict[str, GraphReport]


@dataclass(frozen=True)
class StepDone:
    """From the first rank: a step is over."""

    step: int
    steps: int
    preview: Any
