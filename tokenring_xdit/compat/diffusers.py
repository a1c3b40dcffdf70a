"""Differences between versions of diffusers, from 0.35 on."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from diffusers.utils import USE_PEFT_BACKEND, deprecation_utils, scale_lora_layers, unscale_lora_layers

try:
    from diffusers.utils import apply_lora_scale
except ImportError:  # its models scale their layers in forward, each for itself

    def apply_lora_scale(kwargs_name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate a model's ``forward``: layers of LoRA are scaled by ``scale`` of an argument, for this call only.

        Args:
            kwargs_name: The argument, a mapping, from which ``scale`` is taken out.
        """

        def decorate(forward: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(forward)
            def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
                options = dict(kwargs.get(kwargs_name) or {})
                scale = options.pop("scale", 1.0)
                if kwargs.get(kwargs_name) is not None:
                    kwargs[kwargs_name] = options
                if not USE_PEFT_BACKEND:
                    return forward(self, *args, **kwargs)
                scale_lora_layers(self, scale)
                try:
                    return forward(self, *args, **kwargs)
                finally:
                    unscale_lora_layers(self, scale)

            return scaled

        return decorate


__all__ = ["apply_lora_scale", "from_pretrained"]

_DTYPE = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
"""An older diffusers ignores ``dtype``, a newer one warns of ``torch_dtype``."""


def from_pretrained(kind: Any, name: str, dtype: torch.dtype, **parts: Any) -> Any:
    """Load a pipeline, or a model.

    Args:
        kind: Class of diffusers.
        name: Folder or hub name.
        dtype: Dtype of its weights.
        **parts: Parts of a pipeline: those that are not loaded, as they are here.
    """
    return kind.from_pretrained(name, **{_DTYPE: dtype}, **parts)
