"""Whether a model's calls can be replayed as CUDA graphs, as far as that can be seen from outside."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch

from tokenring_xdit.attention.tracing import active_trace
from tokenring_xdit.hosts.weights import adapters_of, is_adapter

__all__ = ["REPLAYABLE", "ReplayCheck", "surroundings"]

REPLAYABLE = "tokenring_replayable"
"""Attribute of a hook that says it launches the same, on the same memory, in all calls of one form."""

_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


class ReplayCheck:
    """Looks at a model before each of its calls; quickly where it has the modules that it had."""

    def __init__(self) -> None:
        self._model: Any = None
        self._modules: list[Any] = []  # they are kept, so that none is taken for another
        self._children: tuple[int, ...] = ()

    def __call__(self, model: Any) -> tuple[Hashable, str | None]:
        """Look at it.

        Args:
            model: The model, or a copy of it, which has weights of its own.

        Returns:
            A stamp, which differs from that of another time where weights or adapters are others or lie elsewhere;
            and why a call cannot be replayed, or ``None``.
        """
        if active_trace() is not None:
            return (), "a trace is recorded, which would see nothing of a replay"
        if model.training:
            return (), "the model is in training mode"
        if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            return (), "torch.autocast is on, which decides by its own state what is cast"
        if model is not self._model or self._children != _children(self._contents):
            self._gather(model)
        for attributes in self._contents:
            obstacle = _obstacle(attributes, inside=attributes is not vars(model))
            if obstacle is not None:
                return (), obstacle
        return (self._children, tuple(_stamps(self._contents)), tuple(adapters_of(self._layers))), None

    def _gather(self, model: Any) -> None:
        self._model, self._modules = model, list(model.modules())
        self._contents = [vars(module) for module in self._modules]
        self._children = _children(self._contents)
        self._layers = [("", module) for module in self._modules if is_adapter(module)]


def surroundings() -> tuple[Any, ...]:
    """What torch was told that changes what a call computes."""
    try:
        precision: Any = torch.get_float32_matmul_precision()
    except RuntimeError:  # where it was set by torch's newer names, such as torch.backends.cuda.matmul.fp32_precision
        precision = tuple(backend.fp32_precision for backend in (torch.backends, torch.backends.cuda.matmul))
    return precision, torch.are_deterministic_algorithms_enabled()


def _children(modules: list[dict[str, Any]]) -> tuple[int, ...]:
    return tuple(id(child) for attributes in modules for child in attributes["_modules"].values())


def _stamps(modules: list[dict[str, Any]]) -> Iterator[Any]:
    for attributes in modules:
        for tensors in (attributes["_parameters"], attributes["_buffers"]):
            for tensor in tensors.values():
                if tensor is not None:
                    # A graph reads what lies there; what was computed from it before, and kept, it does not renew.
                    yield tensor.data_ptr() if type(tensor) in _PLAIN else id(tensor)
                    yield -1 if tensor.is_inference() else tensor._version


def _obstacle(attributes: dict[str, Any], inside: bool) -> str | None:
    hooks = attributes.get("_diffusers_hook")
    if hooks is not None and hooks.hooks:
        return f"diffusers' hook '{next(iter(hooks.hooks))}' decides, or moves weights, in each call"
    if "_hf_hook" in attributes:
        return "accelerate moves weights in and out in each call"
    if attributes.get("_compiled_call_impl") is not None:
        return "a part of the model was compiled, and may have graphs of its own"
    for kind in ("_forward_pre_hooks", "_forward_hooks") if inside else ():  # the model's own are called as always
        for hook in attributes[kind].values():
            if not getattr(hook, REPLAYABLE, False):
                name = getattr(hook, "__qualname__", type(hook).__name__)
                return f"a forward hook ({name}) is in the model, and would not be called"
    return None
