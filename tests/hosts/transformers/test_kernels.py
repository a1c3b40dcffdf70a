"""Local attention with places, against softmax in fp64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.hosts.transformers import kernels
from tokenring_xdit.hosts.transformers.kernels import Scores, attend


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    scores: Scores,
    valid: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Everything at once, in fp64."""
    k, v = (t.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    found = q.double() @ k.transpose(-1, -2) * scores.scale
    if scores.softcap is not None:
        found = scores.softcap * torch.tanh(found / scores.softcap)
    hidden = keys > queries[:, None]
    if scores.window is not None:
        hidden = hidden | (keys <= queries[:, None] - scores.window)
    hidden = hidden[None, None].expand(q.shape[0], 1, -1, -1)
    if valid is not None:
        hidden = hidden | ~valid[:, None, None]
    found = found.masked_fill(hidden, -math.inf)
    return torch.nan_to_num(found.softmax(-1)) @ v, torch.logsumexp(found, -1)


@given(
    length=st.integers(1, 9),
    gaps=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=3),
    start=st.integers(0, 30),
    window=st.none() | st.integers(1, 20),
    softcap=st.none() | st.just(2.0),
    padding=st.none() | st.integers(0, 6),
    small=st.booleans(),
)
def test_any_places_windows_caps_and_padding(
    length: int,
    gaps: list[tuple[int, int]],
    start: int,
    window: int | None,
    softcap: float | None,
    padding: int | None,
    small: bool,
) -> None:
    pieces, place = [], 0
    for gap, size in gaps:
        pieces.append((place + gap, place + gap + size))
        place += gap + size
    keys = torch.cat([torch.arange(*piece) for piece in pieces])
    generator = torch.Generator().manual_seed(length)
    q = torch.randn(2, 6, length, 8, generator=generator) * 3
    k, v = torch.randn(2, 2, 2, len(keys), 8, generator=generator)
    valid = None if padding is None else torch.stack([keys >= padding, keys >= 0])
    scores = Scores(0.5, window, softcap)
    sizes = (kernels._QUERIES, kernels._KEYS)
    try:
        if small:
            kernels._QUERIES, kernels._KEYS = 3, 4
        found = attend(q, k, v, start, pieces, scores, valid)
    finally:
        kernels._QUERIES, kernels._KEYS = sizes
    out, lse = reference(q, k, v, torch.arange(start, start + length), keys, scores, valid)
    if found is None:
        assert bool((lse == -math.inf).all())
        return
    torch.testing.assert_close(found[0].double(), out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1].double(), lse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("start", "pieces"), [(20, [(0, 20)]), (20, [(3, 9), (12, 21)]), (5, [(5, 12)])])
def test_what_needs_no_mask_of_its_own_goes_to_a_fused_kernel(start: int, pieces: list[tuple[int, int]]) -> None:
    q, k = torch.randn(1, 4, 7, 8), torch.randn(1, 2, sum(stop - first for first, stop in pieces), 8)
    assert kernels.fused(q, k, k, start, pieces, Scores(1.0)) is not None
    assert kernels.fused(q, k, k, start, pieces, Scores(1.0, softcap=3.0)) is None
    assert kernels.fused(q, k, k, start, pieces, Scores(1.0, window=3)) is None
