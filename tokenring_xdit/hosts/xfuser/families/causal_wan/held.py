"""Which tokens the sharded caches of a streamed video hold, on which rank, and which of them a chunk sees.

Every rank computes all of it from what it knows, without messages. Keys stay on the rank that computed them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.layout import KeyLayout, padding

__all__ = ["ChunkCall", "HeldTokens"]

_NOTHING = -1


@dataclass(frozen=True)
class ChunkCall:
    """One chunk's call of the transformer.

    Attributes:
        tokens: How many tokens the chunk has.
        each: How many of them a rank has, padding included.
        kept: Which of the keys that a rank held before stay, as indices.
        layout: Which keys of all ranks the chunk sees: of those that stay, and of the chunk's own behind them.
    """

    tokens: int
    each: int
    kept: Tensor
    layout: KeyLayout

    def own(self, whole: Tensor, dim: int, rank: int) -> Tensor:
        """A rank's part of what there is for each token of the chunk, padded at the end."""
        first = min(rank * self.each, self.tokens)
        part = whole.narrow(dim, first, min(self.each, self.tokens - first))
        missing = self.each - part.shape[dim]
        if not missing:
            return part
        shape = [*part.shape[:dim], missing, *part.shape[dim + 1 :]]
        return torch.cat([part, part.new_zeros(shape)], dim=dim)


class HeldTokens:
    """What the caches of all layers and ranks hold.

    Upstream's cache in one process is followed with numbers of tokens in the place of keys, so that what it leaves out
    and what it lets a chunk see is the same here, whatever rules it has.

    Args:
        places: How many tokens upstream's cache holds.
        ranks: How many ranks share them.
    """

    def __init__(self, places: int, ranks: int) -> None:
        self._places = torch.full((places,), _NOTHING)
        self._ranks = ranks
        self._end = self._seen = 0
        self._stored = torch.empty(ranks, 0, dtype=torch.long)

    @property
    def stored(self) -> int:
        """How many keys each rank holds of each layer, padding included."""
        return self._stored.shape[1]

    def take(self, start: int, tokens: int, *, window: int, sinks: int, most: int) -> ChunkCall:
        """Put a chunk into the caches; one that is there already, of another denoising step, gives way.

        Args:
            start: Its first token.
            tokens: How many it has.
            window: Window of attention, in frames, -1 for none; with one, the oldest keys make room.
            sinks: How many chunks of the oldest are kept then.
            most: How many keys a chunk sees.

        Raises:
            UnsupportedError: The cache is too short, or would hold tokens of no chunk.
        """
        stop = start + tokens
        end = self._end + stop - self._seen
        if window != -1 and stop > self._seen and tokens + self._end > len(self._places):
            over, first = tokens + self._end - len(self._places), sinks * tokens
            left = self._end - over - first
            self._places[first : first + left] = self._places[first + over : first + over + left].clone()
            end -= over
        if end > len(self._places) or end < tokens:
            raise UnsupportedError(
                f"a cache of {len(self._places)} tokens was asked for, and the video has come to {end} with this chunk "
                f"of {tokens}: use fewer frames, a larger sliding_window_num_frames, or local_attn_size, which lets "
                "the oldest keys make room"
            )
        self._places[end - tokens : end] = torch.arange(start, stop)
        self._end, self._seen = end, stop
        seen = self._places[max(0, end - most) : end]
        if bool((seen == _NOTHING).any()) or len(set(seen.tolist())) != len(seen):
            raise UnsupportedError(
                f"a chunk that begins with token {start} was asked for where the cache ends elsewhere, which would let "
                "it see keys of no token: make the chunks of a video in order"
            )
        return self._stored_turn(start, tokens, seen)

    def _stored_turn(self, start: int, tokens: int, seen: Tensor) -> ChunkCall:
        before = self._stored
        there = torch.isin(before, self._places[: self._end]) & ~((before >= start) & (before < start + tokens))
        kept = there.any(dim=0).nonzero().flatten()
        old = torch.where(there, before, _NOTHING)[:, kept]
        each = (tokens + padding(tokens, self._ranks)) // self._ranks
        new = torch.arange(start, start + each * self._ranks).view(self._ranks, each)
        new = torch.where(new < start + tokens, new, _NOTHING)
        self._stored = torch.cat([old, new], dim=1)
        return ChunkCall(tokens, each, kept, KeyLayout(torch.isin(self._stored, seen)[None]))
