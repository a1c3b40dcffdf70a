"""Whether a model's calls can be replayed as CUDA graphs, as far as that can be seen from outside."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch

from tokenring_xdit.attention.tracing import active_trace
from tokenring_xdit.hosts.weights import adapters_of

__all__ = ["REPLAYABLE", "look_at", "surroundings"]

REPLAYABLE = "tokenring_replayable"
"""Attribute of a hook that says it launches the same, on the same memory, in all calls of one form."""

_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


def look_at(model: Any) -> tuple[Hashable, str | None]:
    """Look at a model before a call.

    Args:
        model: The model.

    Returns:
        A stamp, which differs from that of another time where weights or adapters are others or lie elsewhere; and
        why a call cannot be replayed, or ``None``.
    """
    if active_trace() is not None:
        return (), "a trace is recorded, which would see nothing of a replay"
    if model.training:
        return (), "the model is in training mode"
    weights: list[Any] = []
    layers: list[tuple[str, Any]] = []
    for module in model.modules():
        attributes = vars(module)
        obstacle = _obstacle(model, module, attributes)
        if obstacle is not None:
            return (), obstacle
        weights += _stamps(attributes)
        if "scaling" in attributes or "lora_A" in attributes["_modules"]:
            layers.append(("", module))
    return (tuple(weights), tuple(adapters_of(layers))), None


def surroundings() -> tuple[Any, ...]:
    """What torch was told that changes what a call computes."""
    return torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()


def _stamps(attributes: dict[str, Any]) -> Iterator[Any]:
    for tensors in (attributes["_parameters"], attributes["_buffers"]):
        for tensor in tensors.values():
            if tensor is not None:
                # A graph reads what lies there; what was computed from it before, and kept, it does not compute again.
                place = tensor.data_ptr() if type(tensor) in _PLAIN else id(tensor)
                yield place, -1 if tensor.is_inference() else tensor._version


def _obstacle(model: Any, module: Any, attributes: dict[str, Any]) -> str | None:
    hooks = attributes.get("_diffusers_hook")
    if hooks is not None and hooks.hooks:
        return f"diffusers' hook '{next(iter(hooks.hooks))}' decides, or moves weights, in each call"
    if "_hf_hook" in attributes:
        return "accelerate moves weights in and out in each call"
    if attributes.get("_compiled_call_impl") is not None:
        return "a part of the model was compiled, and has graphs of its own"
    if module is model:  # those of the whole model stay outside
        return None
    for hook in (*attributes["_forward_pre_hooks"].values(), *attributes["_forward_hooks"].values()):
        if not getattr(hook, REPLAYABLE, False):
            name = getattr(hook, "__qualname__", type(hook).__name__)
            return f"a forward hook ({name}) is in the model, and would not be called"
    return None
