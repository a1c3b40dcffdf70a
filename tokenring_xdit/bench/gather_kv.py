"""All keys on every rank, then attention of a rank's own queries: how training libraries shard a sequence.

It is here to be compared with. ``context_parallel`` of torch and accelerate gathers keys and values of all ranks with
one collective before attention; neither has a cache, so that of later tokens is gathered in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from tokenring_xdit.attention.merge import Accumulator
from tokenring_xdit.hosts.transformers.current import current_forward
from tokenring_xdit.hosts.transformers.exchanges import Exchanges, attend_slice
from tokenring_xdit.hosts.transformers.kernels import Scores
from tokenring_xdit.planning.pairs import Plan

__all__ = ["gathering", "sending_nothing"]


def gathering(exchanges: Exchanges) -> AbstractContextManager[None]:
    """Inside, attention over the keys of all ranks gathers them first."""
    return _over_all_keys(exchanges, lambda own: exchanges.gather(own, "keys"))


def sending_nothing(exchanges: Exchanges) -> AbstractContextManager[None]:
    """Inside, attention takes this rank's keys for those of all others: what is computed, however wrongly."""
    return _over_all_keys(exchanges, lambda own: [own] * exchanges.ranks)


@contextmanager
def _over_all_keys(exchanges: Exchanges, gather: Callable[[Tensor], Sequence[Tensor]]) -> Iterator[None]:
    def attend(
        q: Tensor, k: Tensor, v: Tensor, plan: Plan, scores: Scores, valid: Tensor | None, *_: Any
    ) -> tuple[Tensor, Tensor]:
        placement = current_forward().placement
        most = max(placement.count(rank) for rank in range(exchanges.ranks))
        own = k.new_zeros(2, *k.shape[:2], most, k.shape[3])
        own[0, :, :, : k.shape[2]], own[1, :, :, : v.shape[2]] = k, v
        total = Accumulator((*q.shape[:-1], v.shape[-1]), q.device)
        queries = plan.queries[exchanges.rank][0]
        for seen, (keys, values) in zip(plan.seen[exchanges.rank], gather(own), strict=True):
            found = attend_slice(q, keys, values, queries, seen, scores, valid)
            if found is not None:
                total.add(*found, owned=True)
        return total.result(q.dtype)

    replaced: Any = exchanges  # the object, for a while
    replaced.attend_sharded = replaced.attend_everywhere = attend
    try:
        yield
    finally:
        del replaced.attend_sharded, replaced.attend_everywhere
