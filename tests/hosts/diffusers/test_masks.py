"""Which keys count, from what diffusers hands to attention as a mask."""

from __future__ import annotations

import pytest
import torch

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.diffusers.masks import keys_that_count, real_tokens, with_bonus

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


def pairs(row: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (row[:, None, :, None] & row[:, None, None, :]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16])
def test_pairs_of_real_tokens(dtype: torch.dtype) -> None:
    assert real_tokens(pairs(ROW, dtype), 3, 3).equal(ROW)
    assert not real_tokens(pairs(ROW & False, dtype), 3, 3).any()
    assert real_tokens(torch.ones(2, 1, 0, 0, dtype=dtype), 0, 0).shape == (2, 0)


@pytest.mark.parametrize("mask", [torch.ones(3, 3).tril(), torch.full((1, 1, 3, 3), 0.5), torch.ones(1, 1, 3, 4)])
def test_other_pairs_are_refused(mask: torch.Tensor) -> None:
    with pytest.raises(UnsupportedError, match="for pairs of tokens"):
        real_tokens(mask, 3, mask.shape[-1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 1e-3)])
def test_a_bonus_is_one(dtype: torch.dtype, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 4, 3, 128, generator=draw, dtype=torch.float64).to(dtype) for _ in range(3))
    scale = 128**-0.5
    wide_q, wide_k, wide_v = (x.double() for x in with_bonus(q, k, v, ROW, scale))
    found = scale * (wide_q @ wide_k.mT - q.double() @ k.double().mT)
    torch.testing.assert_close(found, pairs(ROW, torch.float64).expand_as(found), atol=tolerance, rtol=0)
    assert wide_v[..., :128].equal(v.double())
