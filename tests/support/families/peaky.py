"""Attention that is far from even, so that a key that is counted twice, or left out, shows."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def peaky(model: Module, factor: float = 3.0) -> Module:
    """Scale the queries of a model whose queries are normalised, and with them its scores.

    Args:
        model: Changed in place.
        factor: By how much.

    Returns:
        The model.
    """
    names = ("norm_q.weight", "norm_added_q.weight")
    found = [parameter for name, parameter in model.named_parameters() if name.endswith(names)]
    assert found, "its queries are not normalised"
    with torch.no_grad():
        for parameter in found:
            parameter.mul_(factor)
    return model
