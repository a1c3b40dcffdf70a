"""What holds on to the forward of a class, where the class is changed in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.forwards import handed_over, is_replaced, refuse_held


class One(nn.Module):
    """A model as it was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self) -> int:
        """One."""
        return 1


class Ten(One):
    """What is put in its place."""

    def forward(self) -> int:
        """Ten."""
        return 10


class Add(ModelHook):
    """Adds to what a module puts out."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def post_forward(self, module: Any, output: int) -> int:
        """The sum."""
        return output + self._number


class AroundIt(Add):
    """Calls the module's forward itself, as FasterCache does."""

    def new_forward(self, module: Any) -> int:
        """What it gives."""
        found: int = self.fn_ref.original_forward()
        return found


@pytest.mark.parametrize("first", [Add, AroundIt])
@pytest.mark.parametrize("second", [Add, AroundIt])
def test_hooks_of_diffusers_call_the_new_class(first: Any, second: Any) -> None:
    model = One()
    hooks = HookRegistry.check_if_exists_or_initialize(model)
    hooks.register_hook(first(100), "first")
    hooks.register_hook(second(200), "second")
    assert (model(), is_replaced(model)) == (301, False)
    with handed_over(model):
        model.__class__ = Ten
    assert (model(), is_replaced(model)) == (310, False)
    hooks.remove_hook("first")
    with handed_over(model):
        model.__class__ = One
    assert model() == 201


@pytest.mark.parametrize("kind", [Add, AroundIt])
def test_hooks_that_were_removed_leave_nothing(kind: Any) -> None:
    model = One()
    hooks = HookRegistry.check_if_exists_or_initialize(model)
    hooks.register_hook(kind(100), "first")
    hooks.remove_hook("first")
    assert "forward" in vars(model)
    refuse_held(model)
    with handed_over(model):
        model.__class__ = Ten
    assert model() == 10


def test_offloading_by_accelerate_calls_the_new_class() -> None:
    model = One()
    cpu_offload_with_hook(model, torch.device("cpu"))
    with handed_over(model):
        model.__class__ = Ten
    assert (model(), is_replaced(model)) == (10, False)
    remove_hook_from_module(model)
    with handed_over(model):
        model.__class__ = One
    assert model() == 1


def test_a_function_of_the_users_is_no_hook() -> None:
    model = One()
    forward = model.forward
    model.forward = lambda: 1 + forward()  # type: ignore[method-assign]
    assert is_replaced(model)
    HookRegistry.check_if_exists_or_initialize(model).register_hook(Add(100), "first")
    with pytest.raises(UnsupportedError, match="remove that first"):
        refuse_held(model)
