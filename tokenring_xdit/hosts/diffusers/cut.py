"""Cuts one model's sequences as a plan says: every rank has its tokens where the model computes token by token.

Ranks need not have as many tokens each, so nothing is padded: the first ranks have one more where the number does not
divide, and a short text leaves some without any. Hooks of torch do it, which run before and after whatever diffusers
puts into a module's forward: caches, offloading and adapters see this rank's tokens from the first to the last block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.changes import TOKEN_WISE, refuse_alone
from tokenring_xdit.hosts.diffusers.family import Gather, Plan, Split
from tokenring_xdit.hosts.diffusers.plan import named

__all__ = ["ModelCut", "share"]

_Splits = Mapping["str | int", "Split | tuple[Split, ...]"]


def share(length: int, ranks: int, rank: int) -> tuple[int, int]:
    """Which of a sequence's tokens are a rank's.

    Returns:
        The first, and how many.
    """
    each, more = divmod(length, ranks)
    return rank * each + min(rank, more), each + (rank < more)


class ModelCut:
    """Cuts one model, in front of the modules and behind them that a plan names.

    Args:
        plan: Where.

    Attributes:
        lengths: Tokens of the whole sequences that were cut in the call that is running, by argument; ``None``
            between calls.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._handles: list[Any] = []
        self._hooked: list[Any] = []
        self.lengths: dict[str, int] | None = None

    def hook(self, model: Any) -> None:
        """Cut and gather from now on; again where an adapter has put a layer of its own round one since."""
        # What the model itself is given is cut by begin.
        found = [
            (module, entry) for pattern, entry in self._plan.items() if pattern for _, module in named(model, pattern)
        ]
        if [id(module) for module, _ in found] == [id(module) for module in self._hooked]:
            return
        self.unhook()
        self._hooked = [module for module, _ in found]
        for module, entry in found:
            if isinstance(entry, Gather):
                self._behind(module, partial(self._gather, entry))
                continue
            inputs: _Splits = {name: split for name, split in entry.items() if isinstance(name, str)}
            outputs: _Splits = {name: split for name, split in entry.items() if isinstance(name, int)}
            if inputs:
                self._in_front(module, partial(self._split_inputs, inputs))
            if outputs:
                self._behind(module, partial(self._split_outputs, outputs))

    def unhook(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooked.clear()

    def begin(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """A call of the model begins.

        Returns:
            Its arguments, those that the plan cuts being this rank's.
        """
        self.lengths = {}
        entry = self._plan.get("", {})
        assert not isinstance(entry, Gather)
        for name, split in entry.items():
            if isinstance(name, str) and arguments.get(name) is not None:
                arguments = {**arguments, name: self._split(name, split, arguments[name])}
        return arguments

    def end(self) -> None:
        """It is over, or has failed."""
        self.lengths = None

    def _in_front(self, module: Any, change: Callable[[Any, Any, Any], Any]) -> None:
        self._handles.append(module.register_forward_pre_hook(_hook(change), with_kwargs=True))

    def _behind(self, module: Any, change: Callable[[Any], Any]) -> None:
        hook = _hook(lambda module, args, output: change(output))
        self._handles.append(module.register_forward_hook(hook))

    def _split_inputs(self, entry: _Splits, module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if self.lengths is None:
            refuse_alone(module)
        kind: Any = type(module)
        given, names = list(args), _names(kind)
        for name, split in entry.items():
            place = names.index(name)
            if kwargs.get(name) is not None:
                kwargs = {**kwargs, name: self._split(name, split, kwargs[name])}
            elif place < len(given) and given[place] is not None:
                given[place] = self._split(name, split, given[place])
        return tuple(given), kwargs

    def _split_outputs(self, entry: _Splits, output: Any) -> Any:
        if self.lengths is None:
            return output
        several = isinstance(output, (list, tuple))
        parts = list(output) if several else [output]
        for place, split in entry.items():
            assert isinstance(place, int)
            parts[place] = self._cut(split, parts[place])
        return tuple(parts) if several else parts[0]

    def _split(self, name: Any, split: Split | tuple[Split, ...], whole: Any) -> Any:
        assert self.lengths is not None
        if isinstance(split, tuple) or not isinstance(whole, Tensor):
            return self._cut(split, whole)
        if split.once and name in self.lengths:
            return whole
        if split.dims in (None, whole.ndim) and not split.parts and not split.for_all:
            self.lengths.setdefault(str(name), whole.shape[split.dim])
        return self._cut(split, whole)

    def _cut(self, split: Split | tuple[Split, ...], whole: Any) -> Any:
        """This rank's part of a tensor, or of each of several."""
        if isinstance(whole, Mapping):
            return {name: self._cut(split, tensor) for name, tensor in whole.items()}
        if isinstance(whole, (list, tuple)):
            splits = split if isinstance(split, tuple) else (split,) * len(whole)
            return tuple(self._cut(one, tensor) for one, tensor in zip(splits, whole, strict=True))
        assert isinstance(split, Split)
        if split.dims is not None and whole.ndim != split.dims:
            return whole
        if split.for_all and whole.shape[split.dim] == 1:
            return whole
        if not split.parts:
            return _own(whole, split.dim)
        assert self.lengths is not None
        lengths = [self.lengths[part] for part in split.parts]
        return torch.cat([_own(part, split.dim) for part in whole.split(lengths, split.dim)], split.dim)

    def _gather(self, entry: Gather, output: Tensor) -> Tensor:
        if self.lengths is None:
            return output
        if entry.of not in self.lengths:
            raise UnsupportedError(
                "the transformer came to its end without a block that cuts the sequence, as where the first one is "
                "left out: leave no block out, or do without parallelize"
            )
        ranks, length = dist.get_world_size(), self.lengths[entry.of]
        counts = [share(length, ranks, rank)[1] for rank in range(ranks)]
        shape = list(output.shape)
        shape[entry.dim] = max(counts)
        own = output.new_zeros(shape)
        own.narrow(entry.dim, 0, output.shape[entry.dim]).copy_(output)
        parts = [torch.empty_like(own) for _ in counts]
        dist.all_gather(parts, own)
        return torch.cat(
            [part.narrow(entry.dim, 0, count) for part, count in zip(parts, counts, strict=True)], entry.dim
        )


def _hook(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that what ``torch.compile`` compiles calls, and that may see a rank's tokens alone."""
    hook = outside_graphs(function)
    setattr(hook, TOKEN_WISE, True)
    return hook


def _own(whole: Tensor, dim: int) -> Tensor:
    first, count = share(whole.shape[dim], dist.get_world_size(), dist.get_rank())
    return whole.narrow(dim, first, count).contiguous()


@lru_cache(maxsize=64)
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]
