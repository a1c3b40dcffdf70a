"""How xfuser's Ring moves keys: torch's option, which xfuser leaves at its default, an all-gather."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["all_to_all_rotation"]


@contextmanager
def all_to_all_rotation() -> Iterator[None]:
    """Hand keys from rank to rank instead of gathering them at once, in xfuser's Ring calls inside."""
    from torch.distributed.tensor.experimental._attention import set_rotate_method

    set_rotate_method("alltoall")
    try:
        yield
    finally:
        set_rotate_method("allgather")
