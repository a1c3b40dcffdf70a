"""What several repairs share: when they apply, and how functions are replaced."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tokenring_xdit.compat.torch import frame_outside_graphs, in_place_of, outside_graphs
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.layout import KeyLayout, key_layout, sequence_layout
from tokenring_xdit.hosts.xfuser.choice import current_choice, exactness_promised

__all__ = [
    "REPAIR_ALL",
    "cfg_part",
    "change_when_made",
    "patches_layout",
    "pipeline_name",
    "repair_all",
    "replace_forward",
    "replace_method",
    "sequence_parallel_ranks",
    "show_parameters",
    "under_layout",
    "wanted",
]

REPAIR_ALL = "TOKENRING_REPAIR_ALL"
"""Environment variable: 1 applies the repairs to Ulysses and Ring as well, which are left alone otherwise."""


def wanted() -> bool:
    """Whether the running engine gets the repairs."""
    return repair_all() or current_choice() is not None


def repair_all() -> bool:
    """Whether every strategy gets them: where that was asked for, and in pipelines that ``parallelize`` has spread."""
    return os.environ.get(REPAIR_ALL) == "1" or exactness_promised()


def replace_method(
    owner: Any, name: str, make: Callable[[Any], Any], then: Callable[[Any], Any] = lambda function: function
) -> None:
    """Put ``make(original)`` in the place of a function, which stays reachable as ``__wrapped__``.

    Args:
        owner: The module or class.
        name: Name of the function.
        make: Defined inside the function that repairs something, whose documentation says why.
        then: What is done to what it makes.
    """
    original = getattr(owner, name)
    repair = getattr(sys.modules[make.__module__], make.__qualname__.partition(".")[0])
    INSTALLATION.replace(owner, name, in_place_of(original, then(make(original))), author=repair)


def replace_forward(model: Any, make: Callable[[Any], Any]) -> None:
    """As :func:`replace_method` for ``forward``, in front of what ``torch.compile`` compiles.

    A repair says what the tokens of a call are, in Python and for each call anew; the original forward
    is compiled as before. What such a function calls has to be :func:`outside_graphs` too if it
    touches tensors: only its own frame is left alone.
    """
    replace_method(model, "forward", make, frame_outside_graphs)


def change_when_made(
    module: Any, maker: str, kept: str, change: Callable[[Any], None], *, author: Callable[..., Any]
) -> None:
    """Change a class that upstream makes when it is first asked for.

    Args:
        module: Where.
        maker: Name of the function that makes it.
        kept: Name of the variable that keeps it, which holds it already where it was asked for before.
        change: What is done to it.
        author: The repair.
    """
    if getattr(module, kept) is not None:
        change(getattr(module, kept))
    original = getattr(module, maker)

    def make() -> Any:
        made = original()
        change(made)
        return made

    INSTALLATION.replace(module, maker, in_place_of(original, make), author=author)


def pipeline_name(pipeline: Any) -> str:
    """Name of the diffusers pipeline, also where `xdit` hands in xfuser's pipeline around it."""
    return type(getattr(pipeline, "module", pipeline)).__name__


def show_parameters(wrapper: Any, parent: Any, *, author: Callable[..., Any]) -> None:
    """Let diffusers read the parameters of a model from the constructor of its subclass, which takes any.

    Args:
        wrapper: xfuser's class.
        parent: That of diffusers, which names them.
        author: The repair.
    """
    signature = inspect.signature(parent.__init__)
    INSTALLATION.replace(wrapper.__init__, "__signature__", signature, author=author)


def sequence_parallel_ranks() -> int:
    """Ranks that share one sequence."""
    from xfuser.core.distributed import get_sequence_parallel_world_size

    return int(get_sequence_parallel_world_size())


def under_layout(original: Any, layout: Callable[[Any, Mapping[str, Any]], KeyLayout]) -> Any:
    """The forward of a transformer, inside which attention knows which keys are real.

    Args:
        original: The forward.
        layout: Which keys of each rank are real in a call; it is given the model and the call's arguments by name.
    """
    signature = inspect.signature(original)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not wanted():
            return original(self, *args, **kwargs)
        with key_layout(layout(self, signature.bind(self, *args, **kwargs).arguments)):
            return original(self, *args, **kwargs)

    return forward


@outside_graphs
def patches_layout(model: Any, arguments: Mapping[str, Any]) -> KeyLayout:
    """The layout of a video's tokens ``[B, C, T, H, W]``, padded at the end where the ranks do not divide them."""
    latents: Tensor = arguments["hidden_states"]
    sizes = (size // each for size, each in zip(latents.shape[2:], model.config.patch_size, strict=True))
    return sequence_layout(sequence_parallel_ranks(), math.prod(sizes))


def cfg_part(batch: Tensor) -> Tensor:
    """The items of a batch that this rank's half of classifier-free guidance works on."""
    from xfuser.core.distributed import (
        get_classifier_free_guidance_rank,
        get_classifier_free_guidance_world_size,
    )

    parts: tuple[Tensor, ...] = batch.chunk(get_classifier_free_guidance_world_size())
    return parts[int(get_classifier_free_guidance_rank())]
