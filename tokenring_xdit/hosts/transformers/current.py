"""The forward pass that is under way: what the layers ask for, who share nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.planning.pairs import Plan
from tokenring_xdit.planning.placement import Placement
from tokenring_xdit.planning.straight import Way

if TYPE_CHECKING:
    from tokenring_xdit.hosts.transformers.cache import ShardedCache
    from tokenring_xdit.hosts.transformers.exchanges import Exchanges
    from tokenring_xdit.hosts.transformers.supported import Family

__all__ = ["Forward", "current_forward", "entered"]


@dataclass
class Forward:
    """One call of a decoder, on all ranks.

    Attributes:
        past: Tokens whose keys were cached before.
        new: Tokens of this call.
        queries: Which of them each rank computes, as places in the sequence; all where ``sharded`` is false.
        sharded: Whether each rank computes a range of them, or each all.
        placement: Who holds which keys, those of the new tokens included.
        valid: Which tokens are no padding, bool ``[B, past + new]``; ``None`` for all.
        last_position: ``[B or 1, 1]``: the highest position of all new tokens, on which some rotary tables depend.
        cache: Where keys are put.
        exchanges: What carries tensors.
        family: What the model is known to do.
        way: Whether keys or queries go to other ranks; ``None`` for what a schedule says, and else for that of which
            less goes.
        planned: Whether that was predicted to be the best for layers without window.
        schedule: The schedule of plain causal attention.
        heed: Called before each layer, where a prompt can be given up; raises then.
        plans: Who sees what, by window and first token: worked out once for all layers.
    """

    past: int
    new: int
    queries: tuple[tuple[int, int], ...]
    sharded: bool
    placement: Placement
    valid: Tensor | None
    last_position: Tensor
    cache: ShardedCache
    exchanges: Exchanges
    family: Family
    way: Way | None
    schedule: str
    planned: bool = False
    heed: Callable[[], None] | None = None
    plans: dict[tuple[int | None, int], Plan] = field(default_factory=dict)

    def way_in(self, window: int | None) -> Way | None:
        """What goes in layers with this window: of a few keys behind it, whatever is less."""
        return None if self.planned and window is not None else self.way


_under_way: list[Forward] = []


def current_forward() -> Forward:
    """The innermost forward pass that is under way.

    Raises:
        ConfigurationError: There is none.
    """
    if not _under_way:
        raise ConfigurationError(
            "attn_implementation='tokenring' does nothing by itself: load the model without it and call "
            "tokenring_xdit.parallelize(model, tokenring_degree=N)"
        )
    return _under_way[-1]


@contextmanager
def entered(forward: Forward) -> Iterator[None]:
    """Inside, ``forward`` is under way."""
    _under_way.append(forward)
    try:
        yield
    finally:
        _under_way.pop()
