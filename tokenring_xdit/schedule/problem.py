"""An attention call over several ranks, without its tensors: shapes, and where each block lies in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule.plan import Block, Kind

__all__ = ["LSE_BYTES", "Problem", "Shape", "even_shares"]

LSE_BYTES = 4
"""Of a log-sum-exp, which is always fp32."""

Shape = tuple[int, int, int, int]
"""``[B, H, S, D]``."""


@dataclass(frozen=True)
class Problem:
    """An attention call over several ranks.

    Attributes:
        q_lengths: Query tokens of each rank.
        kv_lengths: Key tokens of each rank.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        batch: Items.
        element_bytes: Bytes of an element of queries, keys and values: 4 for fp32, 2 for bf16 and fp16.
        partial_bytes: Bytes of an element of a partial output on its way.
    """

    q_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    batch: int = 1
    element_bytes: int = 4
    partial_bytes: int = 4

    def __post_init__(self) -> None:
        if len(self.q_lengths) != len(self.kv_lengths) or not self.q_lengths:
            raise ConfigurationError(
                f"{len(self.q_lengths)} query lengths and {len(self.kv_lengths)} key lengths: each rank has one of both"
            )
        counts = (self.heads, self.kv_heads, self.head_dim, self.batch, self.element_bytes, self.partial_bytes)
        if min(counts) < 1 or min(*self.q_lengths, *self.kv_lengths) < 0 or self.heads % self.kv_heads:
            raise ConfigurationError(
                f"{self} is no attention call: lengths from 0, everything else from 1, heads a multiple of kv_heads"
            )

    @classmethod
    def even(
        cls,
        ranks: int,
        tokens: int,
        heads: int,
        head_dim: int,
        *,
        query_tokens: int | None = None,
        kv_heads: int | None = None,
        batch: int = 1,
        element_bytes: int = 4,
    ) -> Problem:
        """A sequence shared out as evenly as can be, the longer shards first.

        Args:
            ranks: Number of ranks.
            tokens: Length of the whole sequence.
            heads: Query heads.
            head_dim: Width of a head.
            query_tokens: Queries in all, where they are not as many as keys.
            kv_heads: Heads of keys and values, where they are fewer.
            batch: Items.
            element_bytes: Bytes of one element, on its way too.
        """
        queries = even_shares(tokens if query_tokens is None else query_tokens, ranks)
        return cls(
            queries, even_shares(tokens, ranks), heads, kv_heads or heads, head_dim, batch, element_bytes, element_bytes
        )

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.q_lengths)

    @property
    def repeated(self) -> Problem:
        """The same with key heads repeated for the query heads that share them, as xfuser does it."""
        return replace(self, kv_heads=self.heads)

    def area(self, block: Block) -> tuple[int, int, int, int]:
        """Where a block lies in its owner's tensors: first and last head, first and last token, the last excluded."""
        keys = block.kind is Kind.KV
        lengths, heads = (self.kv_lengths, self.kv_heads) if keys else (self.q_lengths, self.heads)
        return *block.heads.bounds(heads), *block.tokens.bounds(lengths[block.owner])

    def shape(self, block: Block) -> Shape:
        """Shape of a block's tensors, ``[B, H, S, D]``; for a partial output that of the output."""
        low, high, first, last = self.area(block)
        return self.batch, high - low, last - first, self.head_dim

    def size(self, block: Block) -> int:
        """Bytes of a block on its way: of keys and values together, of a partial output with its log-sum-exp."""
        batch, heads, tokens, head_dim = self.shape(block)
        rows = batch * heads * tokens
        if block.kind is Kind.O:
            return rows * (head_dim * self.partial_bytes + LSE_BYTES)
        return block.kind.messages * rows * head_dim * self.element_bytes


@lru_cache(maxsize=256)
def even_shares(tokens: int, ranks: int) -> tuple[int, ...]:
    """Tokens of each rank, as even as can be, the longer shards first."""
    short, longer = divmod(tokens, ranks)
    return tuple(short + (rank < longer) for rank in range(ranks))


def sum_size(shape: Sequence[int]) -> int:
    """Bytes of an output ``[B, H, S, D]`` with its log-sum-exp while it is summed up, in fp32."""
    batch, heads, tokens, head_dim = shape
    return batch * heads * tokens * (head_dim * 4 + LSE_BYTES)
