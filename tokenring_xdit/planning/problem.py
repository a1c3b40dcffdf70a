"""What an attention call is about, for those who plan it: lengths, heads, and how many bytes each block has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule import Attend, Block, Kind, Mask

__all__ = ["Attention", "Problem", "even_shares"]

_LSE_BYTES = 4


@dataclass(frozen=True)
class Attention:
    """What a call of the attention kernel computes.

    Attributes:
        flops: Floating point operations: a multiplication and an addition for each of two products, half if causal.
        heads: Query heads of all items.
        queries: Tokens of each.
    """

    flops: float
    heads: int
    queries: int


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
        element_bytes: Of an element of queries, keys and values: 4 for fp32, 2 for bf16 and fp16.
        partial_bytes: Of an element of a partial output on its way.
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
            element_bytes: Of one element, on its way too.
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

    def elements(self, block: Block) -> int:
        """Elements of a block; of keys and values both are counted."""
        keys = block.kind is Kind.KV
        length = (self.kv_lengths if keys else self.q_lengths)[block.owner]
        return (2 if keys else 1) * self.rows(block, length) * self.head_dim

    def rows(self, block: Block, length: int) -> int:
        """Tokens times heads times items of a block whose owner has ``tokens`` tokens."""
        heads = self.kv_heads if block.kind is Kind.KV else self.heads
        (first, last), (low, high) = block.tokens.bounds(length), block.heads.bounds(heads)
        return self.batch * (last - first) * (high - low)

    def size(self, block: Block) -> int:
        """Bytes of a block on its way; a partial output has its log-sum-exp with it."""
        if block.kind is Kind.O:
            rows = self.rows(block, self.q_lengths[block.owner])
            return rows * (self.head_dim * self.partial_bytes + _LSE_BYTES)
        return self.elements(block) * self.element_bytes

    def partial_memory(self, block: Block) -> int:
        """Bytes of a partial output that is being summed up, in fp32."""
        return self.rows(block, self.q_lengths[block.owner]) * (self.head_dim + 1) * 4

    def attention(self, attends: Sequence[Attend]) -> Attention:
        """The kernel call of queries and the blocks of keys that they meet at once."""
        q = attends[0].narrowed[0]
        first, last = q.tokens.bounds(self.q_lengths[q.owner])
        low, high = q.heads.bounds(self.heads)
        heads, queries = self.batch * (high - low), last - first
        flops = 0.0
        for attend in attends:
            start, end = attend.kv.tokens.bounds(self.kv_lengths[attend.kv.owner])
            flops += (4.0 if attend.mask is Mask.FULL else 2.0) * heads * queries * (end - start) * self.head_dim
        return Attention(flops, heads, queries)


def even_shares(tokens: int, ranks: int) -> tuple[int, ...]:
    """Tokens of each rank, as even as can be, the longer shards first."""
    short, longer = divmod(tokens, ranks)
    return tuple(short + (rank < longer) for rank in range(ranks))
