"""One call of a parallel model at a time in each process, whatever its threads do, and none inside of another's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tokenring_xdit.errors import UnsupportedError

if TYPE_CHECKING:
    from tokenring_xdit.hosts.transformers.session import Session

__all__ = ["generating", "refuse_inside", "turn"]

_LOCK = threading.RLock()
_generating: list[Session] = []
"""Whose ``generate`` is under way in the thread that has the lock; one, or none."""


@contextmanager
def turn(session: Session) -> Iterator[None]:
    """Inside, no other thread calls a parallel model: what ranks send each other has one order.

    Raises:
        UnsupportedError: This is inside of ``generate`` of another parallel model.
    """
    with _LOCK:
        if _generating and _generating[0] is not session:
            refuse_inside("another parallel model is called")
        yield


@contextmanager
def generating(session: Session) -> Iterator[None]:
    """Round a call of ``generate``.

    Raises:
        UnsupportedError: This is inside of ``generate`` of a parallel model.
    """
    with _LOCK:
        refuse_inside("generate is called")
        _generating.append(session)
        try:
            yield
        finally:
            _generating.pop()


def refuse_inside(what: str) -> None:
    """Refuse what all ranks would have to do, where the first one alone would do it.

    Raises:
        UnsupportedError: This is inside of ``generate`` of a parallel model.
    """
    with _LOCK:
        if _generating:
            raise UnsupportedError(
                f"{what} inside generate of a parallel model, by a streamer, a criterion or a processor, which run on "
                "one rank alone, and all ranks would have to: call it before or after generate"
            )
