"""Faults of xfuser that are repaired, most of them only where TokenRing is chosen: a module for each model family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tokenring_xdit.hosts.xfuser.repairs import (
    attention_kernels,
    attention_processors,
    flux,
    flux2,
    hunyuan_video,
    lora,
    lumina2,
    pipelines,
    qwen_image,
    wan,
    z_image,
)

__all__ = ["hooks"]


def hooks() -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Module names, each with what to do right after it has been imported."""
    for module in (
        attention_kernels,
        attention_processors,
        flux,
        flux2,
        hunyuan_video,
        lumina2,
        pipelines,
        qwen_image,
        wan,
        z_image,
        lora,  # in front of what they put before a forward
    ):
        yield from module.HOOKS.items()
