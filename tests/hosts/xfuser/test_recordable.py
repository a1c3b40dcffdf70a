"""Transformers whose calls are said to be captured, on a device that is not the host: the meta device, without a GPU.

A copy from the host's memory, or a look at what is on the device, makes a GPU's host wait, so that a call runs as it
is. On processors nothing of that shows.
"""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.graphs.operators import read_by_host
from tests.support.families import ALL_FAMILIES
from tokenring_xdit.graphs.forms import tensors_replaced
from tokenring_xdit.hosts.xfuser.families.lumina2 import repairs as lumina2

CAPTURED = ["flux", "flux2-klein", "sd3", "wan-t2v", "qwen-image", "z-image", "krea2", "lumina2", "hunyuan-video"]


class Crossings(TorchDispatchMode):
    """Finds what a host would wait for.

    Attributes:
        found: The operators, with the line of whoever asked for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of each of its operators."""
        output = func(*args, **(kwargs or {}))
        given, made = ({t.device.type for t in _tensors(each)} for each in ((args, kwargs), output))
        copies = "copy" in func.name() and len(given | made) > 1
        if copies or read_by_host(func.name(), args):
            frames = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename]
            self.found.append(f"{func.name()} at {frames[-1].filename}:{frames[-1].lineno}")
        return output


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def called_once(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """A transformer on the meta device, and the arguments of its first call there."""
    pipe = ALL_FAMILIES[family].make()
    calls: list[dict[str, Any]] = []

    def note(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        names = list(type(model).forward.__code__.co_varnames)[1:] if args else []
        calls.append({**dict(zip(names, args, strict=False)), **kwargs})

    handle = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    pipe(**ALL_FAMILIES[family].inputs(steps=1))
    handle.remove()
    arguments = {name: tensors_replaced(value, lambda t: t.to("meta")) for name, value in calls[0].items()}
    return pipe.transformer.to("meta"), arguments


@pytest.mark.matrix
@pytest.mark.parametrize("family", CAPTURED)
@torch.no_grad()
def test_calls_after_the_first_need_nothing_of_the_host(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, arguments = called_once(family)
    if family == "lumina2":  # as calls that may be recorded have it
        rope: Any = type(model.rope_embedder)
        monkeypatch.setattr(rope, "forward", lumina2._embedded)
    for _ in range(2):
        with Crossings() as crossings:
            model(**arguments)
    assert not crossings.found


@pytest.mark.matrix
@torch.no_grad()
def test_a_look_at_the_device_shows() -> None:
    """Diffusers' own table of positions, which asks how long texts are."""
    model, arguments = called_once("lumina2")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        model(**arguments)
