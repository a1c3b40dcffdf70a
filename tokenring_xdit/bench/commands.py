"""What a sweep asks its ranks for, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.bench.pictures import Pixels
from tokenring_xdit.bench.plan import CallShape, Strategy
from tokenring_xdit.bench.text import TextShape
from tokenring_xdit.bench.workload import WorkloadShape

__all__ = ["CheckStrategy", "Checked", "Prepare", "Prepared", "TimeStrategy", "Timed", "TraceStrategy"]


@dataclass(frozen=True)
class Prepare:
    """Make the tensors of a problem, or load its pipeline, and find what its output has to be.

    Attributes:
        shape: The problem.
        seed: Seed of its tensors.
        whole: Whether rank 0 needs all of them, for a strategy on one rank.
        pictures: Whether checks of a pipeline are to bring what was drawn.
    """

    shape: WorkloadShape | TextShape | CallShape
    seed: int
    whole: bool
    pictures: bool = False


@dataclass(frozen=True)
class Prepared:
    """The problem is ready.

    Attributes:
        kernel: Name of the local attention kernel; of a pipeline, xfuser's name of its attention backend.
        device: Device of this rank.
        threads: Threads of this rank's computations.
    """

    kernel: str
    device: str
    threads: int


@dataclass(frozen=True)
class CheckStrategy:
    """Call a strategy, and look at it instead of timing it."""

    strategy: Strategy


@dataclass(frozen=True)
class Checked:
    """What one rank found.

    Attributes:
        difference: Largest difference of its output to the reference.
        scale: Largest value of the reference.
        rows: Queries compared, each in all heads; of a pipeline image tokens, on the rank that has them.
        bytes_sent: Payload that this rank sent for one call.
        links: Bytes of frames that each of its links carried during that call, ``sent`` and ``received``; ``None``
            outside an emulated network.
        peak: Bytes allocated at once for a first call, beside its inputs.
        peak_measure: How that was found.
        picture: What was drawn, on the rank that has it and where that was asked for.
        keys: Of a language model: tokens whose keys this rank holds in the layer with most.
        same_answer: Whether it generated the tokens of one process, where an answer was asked for.
    """

    difference: float
    scale: float
    rows: int
    bytes_sent: int
    links: dict[str, dict[str, int]] | None
    peak: int
    peak_measure: str
    picture: Pixels | None = None
    keys: int | None = None
    same_answer: bool | None = None


@dataclass(frozen=True)
class TimeStrategy:
    """Call a strategy after a barrier; ``None`` is the attention that each rank computes, without communication."""

    strategy: Strategy | None


@dataclass(frozen=True)
class Timed:
    """What one rank took.

    Attributes:
        seconds: Seconds of the call, or of a denoising step of it.
        attention: Seconds of a denoising step inside attention calls; ``None`` for calls of attention.
    """

    seconds: float
    attention: float | None = None


@dataclass(frozen=True)
class TraceStrategy:
    """Call a strategy once to warm up and once recorded.

    The answer is a :class:`~tokenring_xdit.bench.timelines.Traced` from rank 0 and ``None`` from the others.
    """

    strategy: Strategy
