"""What several repairs share: when they apply, and the layouts of simple sequences."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import frame_outside_graphs, in_place_of
from tokenring_xdit.hosts.xfuser.choice import current_choice, exactness_promised
from tokenring_xdit.hosts.xfuser.layout import KeyLayout, cut

__all__ = [
    "REPAIR_ALL",
    "all_real",
    "cfg_part",
    "outside_graphs",
    "pipeline_name",
    "repair_all",
    "replace_forward",
    "replace_method",
    "sequence_layout",
    "sequence_parallel_ranks",
    "wanted",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

REPAIR_ALL = "TOKENRING_REPAIR_ALL"
"""Environment variable: 1 applies the repairs to Ulysses and Ring as well, which are left alone otherwise."""


def wanted() -> bool:
    """Whether the running engine gets the repairs."""
    return repair_all() or current_choice() is not None


def repair_all() -> bool:
    """Whether every strategy gets them: where that was asked for, and in pipelines that ``parallelize`` has spread."""
    return os.environ.get(REPAIR_ALL) == "1" or exactness_promised()


def replace_method(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put ``make(original)`` in the place of a function, which stays reachable as ``__wrapped__``."""
    original = getattr(owner, name)
    setattr(owner, name, in_place_of(original, make(original)))


def replace_forward(model: Any, make: Callable[[Any], Any]) -> None:
    """As :func:`replace_method` for ``forward``, in front of what ``torch.compile`` compiles.

    A repair says what the tokens of a call are, in Python and for each call anew; the original forward
    is compiled as before. What such a function calls has to be :func:`outside_graphs` too if it
    touches tensors: only its own frame is left alone.
    """

    def in_front(original: Any) -> Any:
        return frame_outside_graphs(make(original))

    replace_method(model, "forward", in_front)


def outside_graphs(function: _Function) -> _Function:
    """Keep ``torch.compile`` from a function and from all that it calls."""
    kept: _Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return kept


def pipeline_name(pipeline: Any) -> str:
    """Name of the diffusers pipeline, also where `xdit` hands in xfuser's pipeline around it."""
    return type(getattr(pipeline, "module", pipeline)).__name__


def sequence_parallel_ranks() -> int:
    """Ranks that share one sequence."""
    from xfuser.core.distributed import get_sequence_parallel_world_size

    return int(get_sequence_parallel_world_size())


def cfg_part(batch: Tensor) -> Tensor:
    """The items of a batch that this rank's half of classifier-free guidance works on."""
    from xfuser.core.distributed import (
        get_classifier_free_guidance_rank,
        get_classifier_free_guidance_world_size,
    )

    parts: tuple[Tensor, ...] = batch.chunk(get_classifier_free_guidance_world_size())
    return parts[int(get_classifier_free_guidance_rank())]


def all_real(tokens: int) -> Tensor:
    """The mask of a sequence without padding, ``[1, tokens]``."""
    return torch.ones(1, tokens, dtype=torch.bool)


@outside_graphs
@lru_cache(maxsize=32)
def sequence_layout(ranks: int, *lengths: int) -> KeyLayout:
    """The layout of sequences that are padded at their ends and cut, one behind the other on each rank."""
    return KeyLayout.of_segments(*(cut(all_real(length), ranks) for length in lengths))
