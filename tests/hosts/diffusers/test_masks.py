"""Which keys count, from what diffusers hands to attention as a mask."""

from __future__ import annotations

import pytest
import torch

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.diffusers.masks import keys_that_count

ROW = torch.tensor([[True, True, False], [True, False, False]])


def added(value: float, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(2, 1, 1, 3, dtype=dtype).masked_fill(~ROW[:, None, None], value)


@pytest.mark.parametrize(
    "mask",
    [
        ROW[:, None, None],
        ROW[:, None, None].expand(2, 4, 5, 3),
        added(-10000.0, torch.float32),
        added(-10000.0, torch.bfloat16),
        added(-torch.inf, torch.float32),
        added(torch.finfo(torch.float16).min, torch.float16).repeat(1, 4, 1, 1),
    ],
)
def test_each_form_that_diffusers_has(mask: torch.Tensor) -> None:
    assert keys_that_count(mask, 5, 3).equal(ROW)


def test_a_row_for_all_queries_and_items() -> None:
    assert keys_that_count(ROW[:1], 5, 3).equal(ROW[:1])
    assert keys_that_count(torch.ones(2, 1, 1, 1, dtype=torch.bool), 5, 3).equal(torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(5, 5, dtype=torch.bool).tril(), "queries or heads see different keys"),
        (torch.stack([ROW, ~ROW], 1)[:, :, None], "queries or heads see different keys"),
        (torch.full((1, 1, 1, 5), -0.5), "no mask of 0 and at most -9000"),
        (torch.ones(2, 4, dtype=torch.bool), r"a mask \(2, 4\) for 5 queries"),
        (torch.ones(5, dtype=torch.bool), "for 5 queries"),
    ],
)
def test_others_are_refused(mask: torch.Tensor, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        keys_that_count(mask, 5, mask.shape[-1] if mask.shape != (2, 4) else 5)


def test_a_rank_without_queries_cannot_know_a_mask_of_rows() -> None:
    with pytest.raises(UnsupportedError, match="has no query"):
        keys_that_count(torch.ones(2, 1, 0, 3, dtype=torch.bool), 0, 3)
