"""Small pipelines of diffusers by their keys, whichever host spreads them, and attention that is far from uniform."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.families import Family
from tests.support.kinds import ONLY_DIFFUSERS, Small, known
from tests.support.tasks import TASKS

__all__ = ["ONLY_DIFFUSERS", "TASKS", "Small", "peaky", "sharpen", "small"]


def small(key: str) -> Family | Small:
    """The pipelines that a key of :data:`ALL_FAMILIES`, :data:`ONLY_DIFFUSERS` or :data:`TASKS` names."""
    return TASKS.get(key) or known(key)


def sharpen(model: Any, factor: float = 3.0) -> None:
    """Scale queries up, behind their norm where they have one: uniform attention hides keys that are missing or twice.

    Args:
        model: A transformer.
        factor: On the queries.
    """
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(getattr(module, "norm_q", None), "weight", None)
            if weight is not None:
                weight.mul_(factor)
            elif hasattr(module, "to_q"):
                module.to_q.weight.mul_(factor)


def peaky(key: str, **options: Any) -> Any:
    """The pipeline that a key names, with attention that is far from uniform.

    Args:
        key: As :func:`small` takes it.
        **options: Of the pipeline.
    """
    pipe = small(key).make(**options)
    for name in ("transformer", "transformer_2"):
        model = getattr(pipe, name, None)
        if model is not None:
            sharpen(model)
    return pipe
