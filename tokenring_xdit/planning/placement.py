"""Which rank holds which tokens' keys: pure, and computed alike on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

__all__ = ["BLOCK", "Held", "Placement"]

BLOCK = 32
"""Tokens that go to one rank together where all ranks have computed them."""


class Held(NamedTuple):
    """Tokens ``start..stop - 1``, counted from the beginning of the sequence, and the rank with their keys."""

    start: int
    stop: int
    rank: int


@dataclass(frozen=True)
class Placement:
    """Where the keys of a sequence lie.

    Attributes:
        ranks: How many ranks there are.
        spans: What each holds, in order, without gaps.
    """

    ranks: int
    spans: tuple[Held, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return self.spans[-1].stop if self.spans else 0

    def count(self, rank: int, low: int = 0, high: int | None = None) -> int:
        """How many of the tokens ``low..high - 1`` a rank holds."""
        return sum(stop - start for start, stop in self.pieces(rank, low, high))

    def pieces(self, rank: int, low: int = 0, high: int | None = None) -> list[tuple[int, int]]:
        """The tokens of ``low..high - 1`` that a rank holds, as ranges in ascending order."""
        high = self.length if high is None else high
        found = [(max(span.start, low), min(span.stop, high)) for span in self._of_rank.get(rank, ())]
        return [(start, stop) for start, stop in found if start < stop]

    @cached_property
    def _of_rank(self) -> dict[int, list[Held]]:
        found: dict[int, list[Held]] = {}
        for span in self.spans:
            found.setdefault(span.rank, []).append(span)
        return found

    def split(self, tokens: int) -> list[Held]:
        """The next tokens in one range a rank, as even as can be; what is over goes to the ranks that hold least."""
        each, over = divmod(tokens, self.ranks)
        longer = sorted(range(self.ranks), key=lambda rank: (self.count(rank), rank))[:over]
        spans, start = [], self.length
        for rank in range(self.ranks):
            stop = start + each + (rank in longer)
            spans.append(Held(start, stop, rank))
            start = stop
        return spans

    def deal(self, tokens: int) -> list[Held]:
        """The next tokens in blocks: the last block is filled, others go to the rank that holds least."""
        held = [self.count(rank) for rank in range(self.ranks)]
        spans, start, end = [], self.length, self.length + tokens
        last = self.spans[-1] if self.spans else None
        room = 0 if last is None else -(last.stop - last.start) % BLOCK
        while start < end:
            if last is not None and room:
                rank, stop = last.rank, min(end, start + room)
            else:
                rank = min(range(self.ranks), key=lambda r: (held[r], r))
                stop = min(end, start + BLOCK)
            spans.append(Held(start, stop, rank))
            held[rank] += stop - start
            start, room, last = stop, 0, None
        return spans

    def plus(self, spans: Sequence[Held]) -> Placement:
        """With further tokens."""
        joined = list(self.spans)
        for span in spans:
            if span.start == span.stop:
                continue
            last = joined[-1] if joined else None
            if last is not None and last.rank == span.rank:
                joined[-1] = Held(last.start, span.stop, span.rank)
            else:
                joined.append(span)
        return Placement(self.ranks, tuple(joined))

    def cropped(self, length: int) -> Placement:
        """The first ``length`` tokens only."""
        kept = (Held(s.start, min(s.stop, length), s.rank) for s in self.spans if s.start < length)
        return Placement(self.ranks, tuple(kept))
