"""Rows of a result that a call asks for."""

from __future__ import annotations

import pytest
import torch

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.transformers.rows import rows_to_keep


@pytest.mark.parametrize(
    ("kept", "rows"),
    [
        (0, None),
        (2, (3, 4)),
        (9, (0, 1, 2, 3, 4)),
        (-3, (3, 4)),
        (torch.tensor([4, -5, 0]), (4, 0, 0)),
        (torch.tensor([True, False, False, True, False]), (0, 3)),
    ],
)
def test_rows_are_those_that_indexing_gives(kept: int | torch.Tensor, rows: tuple[int, ...] | None) -> None:
    assert rows_to_keep(kept, 5) == rows


@pytest.mark.parametrize("kept", [torch.tensor([0, 5]), torch.tensor([-6]), torch.zeros(2, 2)])
def test_rows_that_are_not_there_are_refused(kept: torch.Tensor) -> None:
    with pytest.raises(UnsupportedError, match="logits_to_keep"):
        rows_to_keep(kept, 5)
