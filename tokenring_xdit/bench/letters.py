"""Orders and answers as JSON, for a store that strangers can reach.

Reading one makes an object of a few classes, and runs nothing that the letter says.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tokenring_xdit.bench.orders import Check, Checked, Prepare, Prepared, Time, Timed, Trace
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.workers.messages import Failed

__all__ = ["read_letter", "write_letter"]

_NOTHING = "None"


_KINDS: tuple[Any, ...] = (Check, Checked, Failed, Prepare, Prepared, Time, Timed, Trace, Traced)
_ADAPTERS: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in _KINDS}


def write_letter(message: Any) -> bytes:
    """An order, an answer, or ``None``."""
    if message is None:
        return json.dumps({"kind": _NOTHING}).encode()
    kind = type(message).__name__
    return json.dumps({"kind": kind, "content": _ADAPTERS[kind].dump_python(message, mode="json")}).encode()


def read_letter(letter: bytes) -> Any:
    """What :func:`write_letter` was given.

    Raises:
        LaunchError: Nobody of these ranks has written it.
    """
    try:
        content = json.loads(letter)
        if content["kind"] == _NOTHING:
            return None
        return _ADAPTERS[content["kind"]].validate_python(content["content"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise LaunchError(f"the ranks' store holds what no rank of this sweep has written: {error}") from error
