"""What two calls have to have alike, so that one can be a replay of the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

__all__ = ["CallForm", "Described", "describe", "tensors_replaced"]

_SCALARS = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, Enum)
"""Of arguments that are equal where what is written of them is."""

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


@dataclass(frozen=True)
class CallForm:
    """Of a call all but the numbers in its tensors.

    Attributes:
        arguments: By name: shape and dtype of tensors, and which of them are one; values of everything else.
        context: What else the call depends on.
    """

    arguments: tuple[tuple[str, Any], ...]
    context: tuple[Any, ...] = ()

    @property
    def digest(self) -> str:
        """A few characters that differ where forms do."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def difference(self, other: CallForm) -> tuple[str, ...]:
        """Names of the arguments in which two forms differ."""
        mine, theirs = dict(self.arguments), dict(other.arguments)
        return tuple(name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name))


@dataclass(frozen=True)
class Described:
    """A call before it is made.

    Attributes:
        form: Form of the call.
        tensors: The tensors among its arguments, each once, in the order in which they were found.
        obstacle: Why the call cannot be replayed, or ``None`` where its arguments do not keep it from that.
    """

    form: CallForm
    tensors: tuple[Tensor, ...]
    obstacle: str | None


def describe(arguments: Mapping[str, Any], device: torch.device, context: tuple[Any, ...] = ()) -> Described:
    """Look at the arguments of a call.

    Strides are no part of a form, as a replay reads copies that always lie alike. Tensors are taken for one where they
    are one object: other views of the same memory differ only for who writes to them, and such calls are not replayed.

    Args:
        arguments: By name; tensors, numbers, texts, and lists, tuples and mappings of them.
        device: Where the call computes.
        context: What else it depends on.
    """
    looked = _Look(device)
    forms = tuple((name, looked.form(name, value)) for name, value in arguments.items())
    return Described(CallForm(forms, context), tuple(looked.tensors), looked.obstacle)


class _Look:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._places: dict[int, int] = {}
        self.tensors: list[Tensor] = []
        self.obstacle: str | None = None

    def form(self, path: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(path, value)
        if isinstance(value, (list, tuple)):
            parts = tuple(self.form(f"{path}[{place}]", part) for place, part in enumerate(value))
            return type(value).__name__, parts
        if isinstance(value, Mapping):
            named = tuple((repr(key), self.form(f"{path}[{key!r}]", part)) for key, part in value.items())
            return type(value).__name__, named
        if not isinstance(value, _SCALARS):
            self._note(f"{path} is a {type(value).__name__}, of which nobody knows when it is another")
        return type(value).__name__, repr(value)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0

    def _tensor(self, path: str, tensor: Tensor) -> Any:
        if tensor.device != self._device:
            self._note(f"{path} is on {tensor.device}, and calls are captured on {self._device}")
        if type(tensor) not in _PLAIN or tensor.layout != torch.strided:
            self._note(f"{path} is a {type(tensor).__name__} of layout {tensor.layout}, which has no plain memory")
        place = self._places.setdefault(id(tensor), len(self.tensors))
        if place == len(self.tensors):
            self.tensors.append(tensor)
        return "Tensor", place, tuple(tensor.shape), str(tensor.dtype), tensor.device.type

    def _note(self, obstacle: str) -> None:
        self.obstacle = self.obstacle or obstacle


def tensors_replaced(value: Any, replace: Callable[[Tensor], Any]) -> Any:
    """The same value with other tensors in it, in containers of the same classes."""
    if isinstance(value, Tensor):
        return replace(value)
    if isinstance(value, (list, tuple)):
        parts = [tensors_replaced(part, replace) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, Mapping):
        named = {key: tensors_replaced(part, replace) for key, part in value.items()}
        return named if type(value) is dict else type(value)(**named)  # an output of diffusers
    return value
