"""When to merge partial outputs that travel while a plan goes on."""

from __future__ import annotations

from tokenring_xdit.schedule.plan import Block, Merge

__all__ = ["MergeQueue"]

_MERGE_LAG = 2
"""Steps between posting the receive of a partial and merging it.

Merging at once would wait for a transfer that has just been posted and so delay the next step's
queries; merging all at the end would keep one receive buffer a rank. Two steps bound the buffers and
leave a whole attention for the transfer to hide behind.
"""


class MergeQueue:
    """Partial outputs of one rank that are on their way to it."""

    def __init__(self) -> None:
        self._expected: list[tuple[int, Block]] = []

    def expect(self, step: int, partial: Block) -> None:
        """A partial whose receive is posted in ``step``; steps come in order."""
        self._expected.append((step, partial))

    def due(self, step: int) -> list[Merge]:
        """Merges for the end of a step."""
        due = [Merge(partial) for posted, partial in self._expected if posted <= step - _MERGE_LAG]
        del self._expected[: len(due)]
        return due

    def rest(self) -> list[Merge]:
        """Merges for the end of the plan."""
        return [Merge(partial) for _, partial in self._expected]
