"""What an engine and its ranks tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.request import Request
from tokenring_xdit.workers import messages

__all__ = ["Done", "Failed", "Phase", "Progress", "Ready", "Run", "Setup"]


class Phase(Enum):
    """How far a rank had come; ranks exchange nothing but between the first step and the last."""

    LOADING = "while it loaded"
    BEFORE = "before the first step"
    STEPS = "between the steps"
    AFTER = "after the last step"


@dataclass(frozen=True)
class Setup:
    """To a rank, once: what to load and how to share it.

    Attributes:
        model: Folder or hub name.
        dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.
        dims: How the ranks are divided.
        attention_backend: xfuser's kernel for attention on one rank.
        timeout: Seconds after which ranks give up waiting for each other.
    """

    model: str
    dtype: str
    dims: ParallelDims
    attention_backend: str = "auto"
    timeout: float = 1800.0


@dataclass(frozen=True)
class Run:
    """To a rank: serve a request."""

    number: int
    request: Request
    preview: bool


@dataclass(frozen=True)
class Ready:
    """From a rank: the model is loaded."""

    number: int = 0


@dataclass(frozen=True)
class Progress:
    """From the first rank: a step is over."""

    number: int
    step: int
    steps: int
    preview: Any


@dataclass(frozen=True)
class Done:
    """From a rank: a request is served; the first one has what was made."""

    number: int
    media: list[Any] | None


@dataclass(frozen=True, kw_only=True)
class Failed(messages.Failed):
    """From a rank: a request, or loading (number 0), failed; the rank lives on.

    Attributes:
        number: The request.
        phase: Where it failed.
    """

    number: int
    phase: Phase
