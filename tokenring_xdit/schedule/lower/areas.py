"""What slots hold in a proof, in place of numbers."""

from __future__ import annotations

from typing import NamedTuple

from tokenring_xdit.schedule.lower.program import Cut, SlotForm

__all__ = ["Area", "Content", "Pairs"]


class Area(NamedTuple):
    """Heads and tokens of a rank's queries, or of its keys and values."""

    owner: int
    low: int
    high: int
    first: int
    last: int

    @property
    def tokens(self) -> int:
        """How many."""
        return self.last - self.first

    def within(self, cut: Cut | None) -> Area:
        """A part of it; ``None`` for all."""
        if cut is None:
            return self
        low, high, first, last = cut
        return Area(self.owner, self.low + low, self.low + high, self.first + first, self.first + last)


class Pairs(NamedTuple):
    """Queries and the keys that they have attended, in all combinations; causal: those up to their own position."""

    queries: Area
    keys: Area
    causal: bool

    @property
    def number(self) -> int:
        """Pairs of a query and a key, were each query to attend each key."""
        return (self.queries.high - self.queries.low) * self.queries.tokens * self.keys.tokens

    def overlaps(self, other: Pairs) -> bool:
        """Whether some pair is in both."""
        (_, low, high, first, last), (_, other_low, other_high, other_first, other_last) = self.queries, other.queries
        return (
            max(low, other_low) < min(high, other_high)
            and max(first, other_first) < min(last, other_last)
            and max(self.keys.first, other.keys.first) < min(self.keys.last, other.keys.last)
        )


class Content(NamedTuple):
    """What a slot holds.

    Attributes:
        form: Form of what it holds.
        areas: Which queries or keys, one behind the other; of a sum or partial output, of which queries it is.
        pairs: What a sum or partial output is made of.
    """

    form: SlotForm
    areas: tuple[Area, ...]
    pairs: tuple[Pairs, ...] = ()

    @property
    def extent(self) -> tuple[int, int]:
        """Heads and tokens."""
        return self.areas[0].high - self.areas[0].low, sum(area.tokens for area in self.areas)

    def view(self, cut: Cut | None) -> Content | None:
        """Some of it; of an output what one block of queries has in it. ``None`` where it cannot be cut so."""
        if cut is None:
            return self
        low, high, first, last = cut
        heads, tokens = self.extent
        if not (0 <= low < high <= heads and 0 <= first < last <= tokens):
            return None
        if self.form is SlotForm.OUTPUT:
            return self._rows(first, last) if (low, high) == (0, heads) else None
        return self._replace(areas=(self.areas[0].within(cut),)) if len(self.areas) == 1 else None

    def _rows(self, first: int, last: int) -> Content | None:
        at = 0
        for area in self.areas:
            if (at, at + area.tokens) == (first, last):
                return Content(self.form, (area,), tuple(pairs for pairs in self.pairs if pairs.queries == area))
            at += area.tokens
        return None
