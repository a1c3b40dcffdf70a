"""What an engine and its ranks tell each other, and what an engine tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenring_xdit.graphs import GraphReport
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.choice import Lora, PipelineChoice
from tokenring_xdit.pipelines.pictures import PackedPicture
from tokenring_xdit.pipelines.request import Request
from tokenring_xdit.schedule.plan import Mask

__all__ = ["MESSAGES", "MemoryUse", "RankFigures", "ServeRequest", "Served", "Setup", "Step", "StepDone"]


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
        choice: What is made of the model.
    """

    model: str
    dtype: str
    dims: ParallelDims
    attention_backend: str = "auto"
    timeout: float = 1800.0
    cuda_graphs: bool = False
    choice: PipelineChoice = field(default_factory=PipelineChoice)


@dataclass(frozen=True)
class ServeRequest:
    """To a rank: serve a request. Each one answers with a :class:`Served`, and only the first one's has media.

    Attributes:
        request: The request, with its pictures packed.
        preview: Whether each step is shown, or after which steps.
    """

    request: Request
    preview: bool | frozenset[int]

    def shows(self, step: int) -> bool:
        """Whether a step is shown."""
        return self.preview if isinstance(self.preview, bool) else step in self.preview


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a rank: of its GPU, or of its process where it has none.

    Attributes:
        model: Held once it had loaded.
        peak: The most that was held while a request was served.
        limit: What could be held, all of this included, when it was over.
    """

    model: int
    peak: int
    limit: int


@dataclass(frozen=True)
class RankFigures:
    """What a request took of a rank.

    Attributes:
        memory: What it held; ``None`` where that cannot be measured.
        sent: Bytes that it sent for attention.
        exposed: Share of the steps, or of reading a prompt and answering, in which it waited for messages of attention,
            from 0 to 1; ``None`` where that is not known, and with fewer than two steps.
    """

    memory: MemoryUse | None = None
    sent: int = 0
    exposed: float | None = None


@dataclass(frozen=True)
class Served:
    """From a rank: a request is served.

    Attributes:
        media: What was made; nothing on other ranks than the first.
        graphs: What became of the transformers' calls so far, by name, where they are replayed as CUDA graphs.
        figures: What it took.
    """

    media: list[Any]
    graphs: dict[str, GraphReport]
    figures: RankFigures = field(default_factory=RankFigures)


@dataclass(frozen=True)
class StepDone:
    """From the first rank: a step is over."""

    step: int
    steps: int
    preview: Any


@dataclass(frozen=True)
class Step:
    """A denoising step that is over.

    Attributes:
        step: Its number, from one.
        steps: How many there are.
        prompts: Positions of the prompts that it was for: all of them, or a replica's under data parallel.
        preview: A PIL picture of what the first of these will look like; ``None`` where none was asked for or the
            pipeline has none (see :class:`tokenring_xdit.pipelines.preview.Preview`).
    """

    step: int
    steps: int
    prompts: range
    preview: Any


MESSAGES = (
    GraphReport,
    Lora,
    Mask,
    MemoryUse,
    PackedPicture,
    ParallelDims,
    PipelineChoice,
    RankFigures,
    Request,
    ServeRequest,
    Served,
    Setup,
    StepDone,
)
"""What may be in messages to and from ranks on other nodes; see :class:`tokenring_xdit.workers.wire.Wire`."""
