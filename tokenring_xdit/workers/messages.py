"""What a rank and whoever started it tell each other, and what became of a rank."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokenring_xdit.errors import TokenRingError

__all__ = ["Answer", "Failed", "Gone", "Phase", "Progress", "RankOutcome", "Silent", "Stopped", "Task"]


class Phase(Enum):
    """How far a rank had come; ranks exchange nothing but between the first step and the last."""

    LOADING = "while it loaded"
    BEFORE = "before the first step"
    STEPS = "between the steps"
    AFTER = "after the last step"


@dataclass(frozen=True)
class Task:
    """To a rank: carry out a command.

    Attributes:
        number: Number of the request, positive; 0 is loading.
        command: What to do; its class is registered in the rank's program.
    """

    number: int
    command: Any


@dataclass(frozen=True)
class Progress:
    """From a rank: it goes on."""

    number: int
    content: Any


@dataclass(frozen=True)
class Answer:
    """From a rank: a command was carried out."""

    number: int
    content: Any


@dataclass(frozen=True, kw_only=True)
class Failed:
    """From a rank: a command failed.

    Attributes:
        kind: Class of the error.
        message: What it says.
        time: When, on the machine's clock.
        traceback: Where it was raised; ``None`` for a refusal, which needs none.
        number: Number of the request; ``None`` before the first one.
        phase: Where it failed, of a rank that lives on; ``None`` of one that ends.
    """

    kind: str
    message: str
    time: float
    traceback: str | None = None
    number: int | None = None
    phase: Phase | None = None

    @classmethod
    def of(cls, error: Exception, *, number: int | None = None, phase: Phase | None = None) -> Failed:
        """The message of the current error."""
        trace = None if isinstance(error, TokenRingError) else "".join(traceback.format_exception(error))
        return cls(
            kind=type(error).__name__,
            message=str(error),
            time=time.time(),
            traceback=trace,
            number=number,
            phase=phase,
        )

    def __str__(self) -> str:
        return self.message if self.traceback is None else f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Gone:
    """In a rank's stead: its process has ended.

    Attributes:
        exit_code: Exit code of the process; negative is the signal that killed it.
        reason: What is known beyond that, where the process was on another node.
    """

    exit_code: int
    reason: str = ""


@dataclass(frozen=True)
class Stopped:
    """In a rank's stead: it is stopped and was not waited for any longer.

    Attributes:
        seconds: For how long that was watched.
    """

    seconds: float


@dataclass(frozen=True)
class Silent:
    """In a rank's stead: it was not waited for any longer.

    Attributes:
        reason: Why not.
    """

    reason: str


RankOutcome = Answer | Failed | Gone | Stopped | Silent
"""How a request ended for a rank."""
