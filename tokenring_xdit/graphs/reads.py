"""What a call reads and neither it nor its caller has made: a graph reads that memory as long as it is replayed."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, cast

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["OutsideTensors"]


class OutsideTensors(TorchDispatchMode):
    """Finds the tensors that operators are given inside, and that no operator inside has made.

    Who keeps these keeps their memory: tables in caches that may let them go, positions of keys, and weights. A
    weight that is put elsewhere, as by ``Module.to``, is still let go, as it is the parameter that is kept.

    Attributes:
        found: The tensors.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Tensor] = []
        self._known = cast(MutableMapping[Tensor, bool], WeakTensorKeyDictionary())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of each of its operators."""
        self.found += self._new(args, kwargs)
        output = func(*args, **(kwargs or {}))
        self._new(output)
        return output

    def _new(self, *values: Any) -> list[Tensor]:
        """The tensors that were not seen before."""
        new = []
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and value not in self._known:
                self._known[value] = True
                new.append(value)
        return new
