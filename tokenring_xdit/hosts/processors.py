"""The attention processors of a sharded transformer: which ones reach all ranks' keys, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tokenring_xdit.errors import UnsupportedError

__all__ = ["InPlaceOfTorch", "ProcessorSlot", "settle"]

_OWN_BACKENDS = frozenset({None, "native"})
"""Values of ``set_attention_backend`` that ask for nothing but diffusers' default."""


class ProcessorSlot:
    """One attention module, and the processors that may stand in it.

    Args:
        name: Name of the module, for messages.
        module: The module.
        known: Names of diffusers' classes that were compared.
        replace: Gives the processor that reaches all ranks' keys for one of those; ``None`` where it may stay.
        backends: Values of ``set_attention_backend`` that the host honours.
        instead: What to do in the place of another one.

    Attributes:
        name: Name of the module.
        module: The module.
    """

    def __init__(
        self,
        name: str,
        module: Any,
        known: tuple[str, ...],
        replace: Callable[[Any], Any] | None = None,
        *,
        backends: frozenset[str | None] = _OWN_BACKENDS,
        instead: str = "use parallelize(..., attention_backend=...)",
    ) -> None:
        self.name = name
        self.module = module
        self._known = known
        self._replace = replace
        self._backends = backends
        self._instead = instead
        self._settled: Any = None

    def settle(self, replace: bool = True) -> None:
        """Put the processor that reaches all ranks' keys in the place of a known one.

        Args:
            replace: Whether to; else it is only checked that it could be.

        Raises:
            UnsupportedError: Another one stands there.
        """
        processor = self.module.processor
        if processor is not self._settled:
            kind = type(processor)
            if kind.__name__ not in self._known or kind.__module__.partition(".")[0] != "diffusers":
                raise UnsupportedError(
                    f"{kind.__name__} was set as the attention processor of {self.name}, where it would attend this "
                    f"rank's own tokens only or was not compared: use {self._known[0]}, diffusers' default (for an "
                    "IP-Adapter, unload it), or do without parallelize"
                )
            if replace:
                processor = processor if self._replace is None else self._replace(processor)
                self._settled = self.module.processor = processor
        backend = getattr(processor, "_attention_backend", None)
        if getattr(backend, "value", backend) not in self._backends:
            raise UnsupportedError(
                f"set_attention_backend({getattr(backend, 'value', backend)!r}) would be without effect in a "
                f"transformer that parallelize has spread over ranks: {self._instead}"
            )


def settle(slots: Iterable[ProcessorSlot], replace: bool = True) -> None:
    """Check all attention processors of a model, as :meth:`ProcessorSlot.settle` does."""
    for slot in slots:
        slot.settle(replace)


class InPlaceOfTorch(TorchFunctionMode):
    """Inside, torch's ``scaled_dot_product_attention`` is another function: for processors that call it by name.

    Args:
        attend: With torch's parameters.

    Attributes:
        calls: How often it was called.
    """

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.calls = 0
        self._attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of each of its functions."""
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self._attend(*args, **(kwargs or {}))
