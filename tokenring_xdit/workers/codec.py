"""Commands and answers as JSON, for a store that strangers can reach.

Reading one makes an object of a few classes, and runs nothing that was written there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tokenring_xdit.errors import LaunchError
from tokenring_xdit.workers.messages import Failed

__all__ = ["Codec"]

_NOTHING = "None"


class Codec:
    """Writes and reads objects of some dataclasses, :class:`Failed`, and ``None``.

    Args:
        kinds: The dataclasses, of which no two have one name.
    """

    def __init__(self, kinds: Iterable[type]) -> None:
        self._adapters: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in (Failed, *kinds)}

    def write(self, message: Any) -> str:
        """A message as JSON."""
        if message is None:
            return json.dumps({"kind": _NOTHING})
        kind = type(message).__name__
        return json.dumps({"kind": kind, "content": self._adapters[kind].dump_python(message, mode="json")})

    def read(self, written: bytes | str) -> Any:
        """What :meth:`write` was given.

        Raises:
            LaunchError: None of these ranks has written it.
        """
        try:
            found = json.loads(written)
            if found["kind"] == _NOTHING:
                return None
            return self._adapters[found["kind"]].validate_python(found["content"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise LaunchError(f"the ranks' store holds what none of them has written: {error}") from error
