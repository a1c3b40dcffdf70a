"""Which of the tokens that a rank holds are real: padding, and text that every rank holds.

xfuser pads the image tokens of Flux at their end, so that every rank gets as many. As keys stay at
home under TokenRing, a rank just leaves its own padding out of its keys and nobody has to be told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["ShardLayout", "active_layout", "shard_layout"]


@dataclass(frozen=True)
class ShardLayout:
    """How one model call is cut over the sequence-parallel ranks.

    Attributes:
        ranks: Sequence-parallel ranks.
        image_tokens: Image tokens of the whole picture, without padding.
        text_tokens: Text tokens of the whole prompt.
    """

    ranks: int
    image_tokens: int
    text_tokens: int

    @property
    def image_shard(self) -> int:
        """Image tokens on each rank, padding included."""
        return -(-self.image_tokens // self.ranks)

    @property
    def padding(self) -> int:
        """Image tokens that are padding, over all ranks."""
        return self.image_shard * self.ranks - self.image_tokens

    @property
    def text_replicated(self) -> int:
        """Text tokens that every rank holds: all of them where their number does not divide."""
        return self.text_tokens if self.text_tokens % self.ranks else 0

    @property
    def text_shard(self) -> int:
        """Text tokens that stand in front of a rank's image tokens as its own shard."""
        return 0 if self.text_replicated else self.text_tokens // self.ranks

    def real_keys(self, ring_rank: int, ulysses_degree: int) -> list[int] | None:
        """Positions of the keys that are no padding, after the Ulysses exchange.

        Args:
            ring_rank: Rank in the ring group.
            ulysses_degree: Ranks whose shards the exchange laid one behind the other.

        Returns:
            Positions in the rank's keys, or ``None`` where all of them are real.
        """
        positions: list[int] = []
        start = 0
        for ulysses_rank in range(ulysses_degree):
            rank = ring_rank * ulysses_degree + ulysses_rank
            real = min(max(self.image_tokens - rank * self.image_shard, 0), self.image_shard)
            positions.extend(range(start, start + self.text_shard + real))
            start += self.text_shard + self.image_shard
        return None if len(positions) == start else positions


_active: ShardLayout | None = None


def active_layout() -> ShardLayout | None:
    """The layout of the model call that is running, where a repair has set one."""
    return _active


@contextmanager
def shard_layout(layout: ShardLayout) -> Iterator[None]:
    """Set the layout for the model calls inside."""
    global _active
    before, _active = _active, layout
    try:
        yield
    finally:
        _active = before
