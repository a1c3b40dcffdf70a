"""Every error that tokenring-xdit raises on purpose.

All of them derive from :class:`TokenRingError`, carry one readable message (what was asked, why not,
what to use instead) and are raised before any work where that can be known.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AgreementError",
    "CancelledError",
    "CommunicationError",
    "ConfigurationError",
    "EngineError",
    "KernelError",
    "LaunchError",
    "LostRankError",
    "ModelUnreachableError",
    "NetworkError",
    "OutputError",
    "RegressionError",
    "ScheduleError",
    "TokenRingError",
    "UnsupportedError",
    "VerificationError",
    "named",
    "nearest",
]


class TokenRingError(Exception):
    """Base of all errors raised by this package."""


class ConfigurationError(TokenRingError):
    """A setting has a value that cannot work."""


class ModelUnreachableError(ConfigurationError):
    """A model is not on this machine, and the hub cannot be asked for it."""


class UnsupportedError(TokenRingError):
    """A combination that this package cannot compute, or not correctly."""


class ScheduleError(TokenRingError):
    """A schedule is unknown, or not defined for the world size asked for."""


class VerificationError(ScheduleError):
    """A schedule failed its proof.

    Attributes:
        rank: Rank whose program is at fault.
        action: Index of the action in that program, or ``None`` if it is none of them.
    """

    def __init__(self, schedule: str, rank: int, action: int | None, problem: str) -> None:
        where = f"rank {rank}, action {action}" if action is not None else f"rank {rank}, at the end"
        super().__init__(f"schedule '{schedule}' is broken: {where}: {problem}")
        self.rank = rank
        self.action = action


class KernelError(TokenRingError):
    """A local attention kernel is unknown or does not take these inputs."""


class AgreementError(TokenRingError):
    """Ranks were given inputs that contradict each other, or one of them refuses its own."""


class CommunicationError(TokenRingError):
    """A rank is gone, is stopped, failed or did not arrive, or a transfer failed."""


class LaunchError(TokenRingError):
    """The ranks of a command could not be started, or one of them failed."""


class LostRankError(LaunchError):
    """A rank was killed, ended or is stopped; the cause may lie outside its request."""


class EngineError(LaunchError):
    """A rank of an engine failed or died; the engine itself can go on."""


class CancelledError(TokenRingError):
    """A request was cancelled on demand."""


class OutputError(TokenRingError):
    """An output could not be written; an older file there is unchanged."""


class NetworkError(TokenRingError):
    """An emulated network could not be built, or does not carry what it states; or links could not be measured."""


class RegressionError(TokenRingError):
    """A benchmark became slower than it was."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that lists what is known and suggests the nearest spelling of ``word``."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Known: {', '.join(options)}.{hint}"


def named(kind: str, message: str) -> TokenRingError:
    """The error of a class of this module that another process has raised, told by its name.

    Args:
        kind: Name of the class; :class:`TokenRingError` stands for what is none.
        message: What it says.
    """
    found = globals().get(kind)
    known = isinstance(found, type) and issubclass(found, TokenRingError) and "__init__" not in vars(found)
    return found(message) if known else TokenRingError(message)  # type: ignore[misc]
