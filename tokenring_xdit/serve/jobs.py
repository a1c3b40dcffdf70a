"""A request on its way: what it asks for, how far it is, and how it ended."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from tokenring_xdit.errors import CancelledError

__all__ = [
    "NO_INPUTS",
    "Began",
    "Event",
    "InputPictures",
    "Job",
    "JobEnded",
    "JobStatus",
    "Order",
    "PictureOrder",
    "Spoke",
    "Stepped",
    "TextOrder",
    "progress_steps",
]


class JobStatus(str, Enum):
    """Where a request is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing happens any more."""
        return self not in {JobStatus.QUEUED, JobStatus.RUNNING}


@dataclass(frozen=True)
class Order(ABC):
    """What is asked of the engine, checked.

    Attributes:
        kind: ``image``, ``video`` or ``text``, as metrics name it.
        seed: Seed of the first picture or video.
    """

    kind: str
    seed: int

    @property
    @abstractmethod
    def all_steps(self) -> int:
        """How many steps it has, at most."""

    @abstractmethod
    def remains(self) -> Order:
        """What is kept of it once it is over: without what is large and read no more."""


@dataclass(frozen=True)
class InputPictures:
    """Pictures that a request looks at, as far as they decide its time and memory.

    Attributes:
        count: How many.
        size: Binary digits of their pixels together; 0 where the model scales them to what it makes.
    """

    count: int = 0
    size: int = 0


NO_INPUTS = InputPictures()


@dataclass(frozen=True)
class PictureOrder(Order):
    """Pictures, or a video; the seeds of those after the first are the numbers that follow.

    Attributes:
        prompt: The prompt.
        count: Pictures.
        together: How many of them are made at once.
        steps: Denoising steps.
        size: Size of a picture, as ``WIDTHxHEIGHT``; ``auto`` where the pipeline knows it alone.
        pixels: Of one picture, width times height, or of all frames of a video; 0 where the pipeline knows its size
            alone.
        frames: Frames of a video.
        fps: Frames of it in a second.
        stored: Whether a video is kept on the store, instead of being handed out at once.
        previews: How many pictures of what is being made are wanted on the way.
        inputs: Pictures that it looks at.
        arguments: Arguments of :meth:`tokenring_xdit.Engine.generate`, beside the prompt and the seed.
    """

    prompt: str = ""
    count: int = 1
    together: int = 1
    steps: int = 1
    size: str = "auto"
    pixels: int = 0
    frames: int = 1
    fps: int = 1
    stored: bool = False
    previews: int = 0
    inputs: InputPictures = NO_INPUTS
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> list[int]:
        """Pictures of each call of the engine."""
        whole, left = divmod(self.count, self.together)
        return [self.together] * whole + [left] * (left > 0)

    @property
    def all_steps(self) -> int:
        """Steps of all batches."""
        return self.steps * len(self.batches)

    def remains(self) -> Order:
        """The prompt is part of the record of a stored video."""
        return replace(self, prompt=self.prompt if self.stored else "", arguments={})


@dataclass(frozen=True)
class TextOrder(Order):
    """What comes next in a conversation.

    Attributes:
        messages: All that was said, as mappings with ``role`` and ``content``; the question last.
        options: Options of :meth:`tokenring_xdit.Chat.ask`, beside the seed.
        prompt_tokens: Prompt tokens of the conversation.
        answer_tokens: That the answer may have.
    """

    messages: tuple[Mapping[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 1
    answer_tokens: int = 1

    @property
    def all_steps(self) -> int:
        """Tokens that the answer may have."""
        return self.answer_tokens

    def remains(self) -> Order:
        """Figures."""
        return replace(self, messages=(), options={})


@dataclass(frozen=True)
class Began:
    """The engine has begun."""


@dataclass(frozen=True)
class Stepped:
    """A step is over.

    Attributes:
        step: How many are over, of all batches.
        preview: A PIL picture, where one is wanted now.
    """

    step: int
    preview: Any = None


@dataclass(frozen=True)
class Spoke:
    """A piece of an answer.

    Attributes:
        text: The piece, of whole characters.
    """

    text: str


@dataclass(frozen=True)
class JobEnded:
    """Nothing follows."""


Event = Began | Stepped | Spoke | JobEnded


class Job:
    """An order that was accepted. The engine's thread moves it on, any thread may look.

    Args:
        order: What to make.
        tell: Called with each :data:`Event`, from any thread.
        name: What it is called; a name of its own by default.

    Attributes:
        id: What it is called.
        status: Where it is.
        step: Steps that are over; of an answer, pieces until it is done, and tokens then.
        order: What to make; once it is over, what remains of that.
        made: Pictures, a video, or one reply, once it is done.
        error: Why it failed, or was cancelled.
        cancelled: Why it is to be given up; ``None`` as long as it is wanted.
        asked: When it was accepted, on the monotonic clock, in seconds; ``began`` and ``ended`` likewise.
        created: The same as seconds since 1970, and so is ``completed``, when it ended.
        predicted: Seconds that it was predicted to take when it began.
        predicted_bytes: Bytes that it was predicted to have the rank hold that holds most, its model included.
        interrupt: Called when it is given up while it is served.
    """

    def __init__(self, order: Order, tell: Callable[[Event], None], name: str | None = None) -> None:
        self.id = name or f"req_{uuid.uuid4().hex}"
        self.order = order
        self.status = JobStatus.QUEUED
        self.step = 0
        self.made: list[Any] = []
        self.error: Exception | None = None
        self.cancelled: Exception | None = None
        self.asked, self.created = time.monotonic(), int(time.time())
        self.began: float | None = None
        self.ended: float | None = None
        self.completed: int | None = None
        self.predicted: float | None = None
        self.predicted_bytes: int | None = None
        self.interrupt: Callable[[], object] = _nothing
        self._tell = tell
        self._wanted = True

    def begin(self) -> None:
        """The engine begins."""
        self.began, self.status = time.monotonic(), JobStatus.RUNNING
        self._tell(Began())

    def advance(self, step: int, preview: Any = None) -> None:
        """Steps are over."""
        self.step = step
        self._tell(Stepped(step, preview))

    def speak(self, text: str) -> None:
        """A piece of an answer has come."""
        self.step += 1
        self._tell(Spoke(text))

    def refuse_cancelled(self) -> None:
        """Give up where that is wanted.

        Raises:
            CancelledError: It is.
        """
        if self.cancelled is not None:
            raise CancelledError(str(self.cancelled))

    def end(
        self,
        status: JobStatus,
        *,
        made: list[Any] | None = None,
        error: Exception | None = None,
        noted: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """The job is over; observers learn it before the client."""
        self.made, self.error = made or [], error
        if error is not None:  # frames keep much
            error.__traceback__ = error.__cause__ = error.__context__ = None
        if not self._wanted:
            self.made = []
        self.order = self.order.remains()
        self.completed = int(time.time())
        self.ended, self.status = time.monotonic(), status
        noted(self)
        self._tell(JobEnded())
        self._tell = lambda event: None  # who listened may be forgotten
        self.interrupt = _nothing

    def take(self) -> list[Any]:
        """What was made, or will be; it is not kept any longer. From any thread, also while the job ends."""
        self._wanted = False
        made, self.made = self.made, []
        return made


def _nothing() -> None:
    """What there is to interrupt where steps look for themselves."""


def progress_steps(steps: int, previews: int) -> frozenset[int]:
    """After which steps pictures of what is being made are shown: evenly, and none after the last one."""
    return frozenset(max(1, steps * i // (previews + 1)) for i in range(1, previews + 1)) - {steps}
