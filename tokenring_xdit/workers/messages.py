"""What ranks and whoever started them tell each other, over pipes that nobody else can open."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Aside", "Failed", "Gone", "cancel", "cancelled_number", "pack", "receive", "unpack"]

_CANCEL = b"cancel "


@dataclass(frozen=True)
class Aside:
    """From a rank, before its answer: something to be told at once."""

    content: Any


@dataclass(frozen=True, kw_only=True)
class Failed:
    """From a rank: what it was asked for failed.

    Attributes:
        kind: Class of the error.
        message: What it says.
        time: When, on the machine's clock.
        traceback: Where it was raised; ``None`` for a refusal, which needs none.
    """

    kind: str
    message: str
    time: float
    traceback: str | None = None

    def __str__(self) -> str:
        return self.message if self.traceback is None else f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Gone:
    """In a rank's stead: its process has ended."""

    exit_code: int


def pack(message: Any) -> bytes:
    """A message as it is sent; torch's own pickling of tensors would share memory with a process that is no child."""
    return pickle.dumps(message)


def unpack(packed: bytes) -> Any:
    """What :func:`pack` was given."""
    return pickle.loads(packed)


def receive(connection: Connection) -> Any:
    """Wait for a message.

    Raises:
        EOFError: The other side has ended.
    """
    return unpack(connection.recv_bytes())


def cancel(number: int) -> bytes:
    """A message, packed: give request ``number`` up. It is heard at once, while others wait for their turn."""
    return _CANCEL + str(number).encode()


def cancelled_number(packed: bytes) -> int | None:
    """Of which request a packed message is the :func:`cancel`, if it is one."""
    return int(packed.removeprefix(_CANCEL)) if packed.startswith(_CANCEL) else None
