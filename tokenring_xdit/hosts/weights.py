"""Whether all ranks have the same weights and adapters, told by a few of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Weights", "adapters_of", "is_adapter"]

_SAMPLES = 256
"""Numbers of each tensor that are looked at."""

_ADAPTERS = ("scaling", "active_adapter", "disable_adapters", "merged_adapters", "scale")
"""Attributes of peft's layers, and of IP-Adapters' processors, that decide what an adapter adds."""


class Weights:
    """The weights of a model, summed up anew only when they have changed.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._seen: tuple[Any, ...] = ()
        self._summary: dict[str, str] = {}

    def summary(self) -> dict[str, str]:
        """A digest of each part of the model, equal on ranks with the same weights and adapters."""
        state = [(name, tensor) for name, tensor in self._model.named_parameters()]
        seen = tuple(_version(tensor) for _, tensor in state) + tuple(adapters_of(self._model.named_modules()))
        if seen != self._seen or not self._summary:
            parts: dict[str, list[str]] = {}
            for (name, _), digest in zip(state, _digests([tensor for _, tensor in state]), strict=True):
                parts.setdefault(name.partition(".")[0], []).append(f"{name} {digest}")
            parts["adapters"] = [str(adapter) for adapter in adapters_of(self._model.named_modules())]
            self._summary = {
                name: hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8] for name, lines in parts.items()
            }
            self._seen = seen
        return self._summary


def _version(tensor: Tensor) -> tuple[Any, ...]:
    """Changes when a tensor is written to or exchanged; weights that are offloaded are known by their form."""
    version = -1 if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.device.type, tuple(tensor.shape), str(tensor.dtype)


def _digests(tensors: list[Tensor]) -> list[str]:
    """A digest of some numbers of each tensor."""
    samples = [_sample(tensor) for tensor in tensors]
    devices: dict[torch.device, list[int]] = {}
    for index, sample in enumerate(samples):
        if sample is not None:
            devices.setdefault(sample.device, []).append(index)
    digests = ["elsewhere"] * len(tensors)
    for indices in devices.values():  # one copy from each device
        together = torch.cat([samples[index] for index in indices]).cpu()  # type: ignore[misc]
        first = 0
        for index in indices:
            part = together[first : first + samples[index].numel()]  # type: ignore[union-attr]
            first += part.numel()
            digests[index] = hashlib.sha256(part.numpy().tobytes()).hexdigest()[:8]
    return [f"{tuple(t.shape)} {t.dtype} {digest}" for t, digest in zip(tensors, digests, strict=True)]


def _sample(tensor: Tensor) -> Tensor | None:
    """Some bytes of a tensor; ``None`` where it is offloaded, or packed in a way of its own."""
    if tensor.device.type == "meta" or type(tensor) not in {Tensor, torch.nn.Parameter} or not tensor.numel():
        return None
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().contiguous().view(-1)
    chosen = flat[:: max(1, flat.numel() // _SAMPLES)]
    return chosen.contiguous().view(torch.uint8)


def adapters_of(modules: Iterable[tuple[str, Any]]) -> list[tuple[Any, ...]]:
    """Which adapters of named modules are active, and how strong."""
    found = []
    for name, module in modules:
        if is_adapter(module):
            found.append((name, *(repr(getattr(module, attribute, None)) for attribute in _ADAPTERS)))
    return found


def is_adapter(module: Any) -> bool:
    """Whether a module is one of peft's layers, of LoRA or another kind, or a processor of an IP-Adapter."""
    peft = hasattr(module, "lora_A") or "scaling" in vars(module) or hasattr(type(module), "active_adapter")
    return peft or hasattr(module, "to_k_ip")
