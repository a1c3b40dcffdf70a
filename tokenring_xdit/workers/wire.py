"""Messages of ranks as plain data, for ways that lead over a network: reading one makes data, and runs nothing.

Beyond :mod:`tokenring_xdit.plain` it carries tensors, pictures, and objects of the classes that a module names: its
``MESSAGES``, dataclasses and enumerations.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from tokenring_xdit.errors import LaunchError
from tokenring_xdit.plain import from_bytes, to_bytes
from tokenring_xdit.workers.messages import Answer, Failed, Phase, Progress, Task
from tokenring_xdit.workers.starting import Packing

__all__ = ["Wire"]

_OWN = (Answer, Failed, Phase, Progress, Task)

_MODES = frozenset({"1", "CMYK", "F", "HSV", "I", "I;16", "L", "LA", "LAB", "RGB", "RGBA", "YCbCr"})
"""Of pictures: those whose bytes are all that they show."""


class Wire(Packing):
    """Packs messages as plain data.

    Args:
        module: Names the classes of messages, as ``MESSAGES``; it is this packing's name.
    """

    def __init__(self, module: str) -> None:
        self.name = module
        self._kinds = {kind.__name__: kind for kind in (*_OWN, *importlib.import_module(module).MESSAGES)}

    def pack(self, message: Any) -> bytes:
        """A message as bytes.

        Raises:
            TypeError: It holds what is not sent so.
        """
        return to_bytes(self._lower(message))

    def unpack(self, packed: bytes) -> Any:
        """What :meth:`pack` was given.

        Raises:
            LaunchError: No rank has packed it so.
        """
        try:
            return self._lift(from_bytes(packed))
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise LaunchError(f"what came from the ranks is nothing that they say: {error}") from error

    # What is not plain is a pair: what it is, and plain content. So is a tuple, as it could be taken for such a pair.

    def _lower(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str, bytes):
            return value
        if kind is np.ndarray:
            return value if value.dtype.kind in "biuf" else self._refused(value)
        if kind is list:
            return [self._lower(item) for item in value]
        if kind in (tuple, set, frozenset):
            return kind.__name__, [self._lower(item) for item in value]
        if kind is range:
            return "range", [value.start, value.stop, value.step]
        if self._kinds.get(kind.__name__) is kind:
            if isinstance(value, Enum):
                return "enum", [kind.__name__, value.value]
            fields = {each.name: self._lower(getattr(value, each.name)) for each in dataclasses.fields(value)}
            return "object", [kind.__name__, fields]
        if isinstance(value, Mapping):
            return {key: self._lower(item) for key, item in value.items()}
        return _lower_tensor(value) or _lower_picture(value) or self._refused(value)

    def _lift(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._lift(item) for item in value]
        if isinstance(value, dict):
            return {key: self._lift(item) for key, item in value.items()}
        if not isinstance(value, tuple):
            return value
        what, content = value
        if what in ("tuple", "set", "frozenset"):
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[what](map(self._lift, content))
        if what == "range":
            return range(*content)
        if what == "enum":
            name, said = content
            return self._kinds[name](said)
        if what == "object":
            name, fields = content
            return self._kinds[name](**{key: self._lift(item) for key, item in fields.items()})
        return {"tensor": _lift_tensor, "picture": _lift_picture}[what](*content)

    @staticmethod
    def _refused(value: Any) -> Any:
        raise TypeError(f"a {type(value).__name__} is not sent to or from ranks on other nodes")


def _lower_tensor(value: Any) -> tuple[str, list[Any]] | None:
    torch = sys.modules.get("torch")  # not imported for those who have none
    if torch is None or type(value) is not torch.Tensor or value.layout is not torch.strided:
        return None
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return "tensor", [str(value.dtype).removeprefix("torch."), list(value.shape), data]


def _lift_tensor(name: str, shape: list[int], data: bytes) -> Any:
    torch = importlib.import_module("torch")
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is no dtype")
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def _lower_picture(value: Any) -> tuple[str, list[Any]] | None:
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(value, pillow.Image) or value.mode not in _MODES:
        return None
    return "picture", [value.mode, list(value.size), value.tobytes()]


def _lift_picture(mode: str, size: list[int], data: bytes) -> Any:
    width, height = size
    return importlib.import_module("PIL.Image").frombytes(mode, (width, height), data)
