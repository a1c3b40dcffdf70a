"""Who holds on to the forward of a model's class, and is given another one when the class is changed in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from tokenring_xdit.errors import UnsupportedError

__all__ = ["handed_over", "is_replaced", "refuse_held"]


def is_replaced(model: Any) -> bool:
    """Whether a model has a forward of its own, behind which nobody that is known calls that of its class."""
    return "forward" in vars(model) and not _holders(model)


def refuse_held(model: Any) -> None:
    """Refuse to give a model its class back where something holds on to the forward that it has now.

    Raises:
        UnsupportedError: Something does.
    """
    if is_replaced(model):
        raise UnsupportedError(
            f"the forward of the {type(model).__name__} was replaced after parallelize (by a function of your own, "
            "say), and holds on to what parallelize made of it: remove that first"
        )


@contextmanager
def handed_over(model: Any) -> Iterator[None]:
    """Inside, a model's class is changed; what called the old one's forward for it calls the new one's afterwards."""
    holders = _holders(model)
    yield
    for holder, name in holders:
        if (holder, name) == (model, "forward"):
            del model.forward  # its class has it
        else:
            setattr(holder, name, MethodType(type(model).forward, model))


def _holders(model: Any) -> list[tuple[Any, str]]:
    """Objects, and the attributes in which they hold the forward of the model's class.

    Hooks of diffusers (group offloading, FasterCache) and accelerate (offloading) call it, and leave it on the model
    when they are removed.
    """
    places = [(model, name) for name in ("forward", "_old_forward") if name in vars(model)]
    hooks = vars(model).get("_diffusers_hook")
    if hooks is not None:
        places += [(each, name) for each in hooks._fn_refs for name in ("forward", "original_forward")]
    return [(place, name) for place, name in places if getattr(place, name) == MethodType(type(model).forward, model)]
