"""What the instruments of measurements count."""

from __future__ import annotations

import pytest

from tokenring_xdit.bench.instruments import _most_held


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ([], 0),
        ([(100, 8), (200, 4), (100, -8), (300, 2)], 12),
        ([(100, 8), (100, -8), (100, 8)], 8),
        ([(0, -8), (100, 8)], 8),  # of before
        ([(100, 8), (100, 6), (200, 1)], 8),  # another thread freed the first: its memory is given out again
        ([(100, 8), (104, 8), (90, 15), (300, 1)], 16),  # a part of it, and a part of each
        ([(100, 8), (108, 8), (92, 8)], 24),  # neighbours
    ],
)
def test_memory_that_is_given_out_again_was_freed(changes: list[tuple[int, int]], most: int) -> None:
    assert _most_held(changes) == most
