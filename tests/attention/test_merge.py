from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention.merge import Accumulator, fold_, merge


def parts(*lengths: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Queries, the attention over each part of the keys, and over all of them; fp64 references."""
    q = torch.randn(2, 3, 10, 8)
    k, v = torch.randn(2, 3, sum(lengths), 8), torch.randn(2, 3, sum(lengths), 8)
    pieces = zip(k.split(lengths, dim=2), v.split(lengths, dim=2), strict=True)
    partials = [softmax_attention(q, pk, pv) for pk, pv in pieces]
    return q, [(o.float(), lse.float()) for o, lse in partials], softmax_attention(q, k, v)


def test_folding_parts_is_attention_over_all() -> None:
    _, partials, (expected, expected_lse) = parts(5, 1, 30)
    (out, lse), *others = partials
    for other in others:
        fold_(out, lse, *other)
    assert relative_error(out, expected) <= 1e-6
    assert relative_error(lse, expected_lse) <= 1e-6


@pytest.mark.parametrize("first_is_empty", [True, False])
def test_a_part_without_keys_changes_nothing_at_all(first_is_empty: bool) -> None:
    _, [(out, lse)], _ = parts(6)
    empty, none = torch.zeros_like(out), torch.full_like(lse, -math.inf)
    a, b = ((empty, none), (out.clone(), lse.clone()))[:: 1 if first_is_empty else -1]
    fold_(*a, *b)
    assert torch.equal(a[0], out)
    assert torch.equal(a[1], lse)


def test_two_parts_without_keys_make_no_nan() -> None:
    out, lse = torch.zeros(1, 1, 2, 4), torch.full((1, 1, 2), -math.inf)
    fold_(out, lse, out.clone(), lse.clone())
    assert torch.equal(out, torch.zeros(1, 1, 2, 4))
    assert torch.equal(lse, torch.full((1, 1, 2), -math.inf))


@pytest.mark.parametrize("where", ["out", "lse"])
def test_a_nan_is_not_hidden(where: str) -> None:
    """One comes with the log-sum-exp alone where a key has one and no value has."""
    for side in range(2):
        a, b = ((torch.ones(1, 1, 2, 4), torch.zeros(1, 1, 2)) for _ in range(2))
        sides = {"out": (a, b)[side][0], "lse": (a, b)[side][1]}
        sides[where][0, 0, 1] = math.nan
        fold_(*a, *b)
        assert a[0][0, 0, 1].isnan().all()
        assert a[0][0, 0, 0].isfinite().all()


def test_scores_far_apart_do_not_overflow() -> None:
    out, other = torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 3.0)
    lse, far = torch.full((1, 1, 1), 1e4), torch.full((1, 1, 1), -1e4)
    fold_(out, lse, other, far)
    assert torch.equal(out, torch.ones(1, 1, 1, 2))
    assert torch.equal(lse, torch.full((1, 1, 1), 1e4))


def test_pieces_of_tokens_and_heads_fold_where_they_belong() -> None:
    q, partials, (expected, expected_lse) = parts(4, 9)
    total = Accumulator(tuple(q.shape), q.device)
    for out, lse in partials:
        for low, high in ((0, 1), (1, 3)):
            for first, last in ((0, 7), (7, 10)):
                where = slice(None), slice(low, high), slice(first, last)
                total.add(out[where], lse[where], (low, high, first, last), owned=False)
    out, lse = total.result(torch.float32)
    assert relative_error(out, expected) <= 1e-6
    assert relative_error(lse, expected_lse) <= 1e-6


def test_what_is_not_owned_is_not_changed() -> None:
    q, [(a, a_lse), (b, b_lse)], _ = parts(4, 9)
    kept = a.clone(), a_lse.clone()
    total = Accumulator(tuple(q.shape), q.device)
    total.add(a, a_lse, owned=False)
    total.add(b, b_lse, owned=False)
    assert torch.equal(a, kept[0]) and torch.equal(a_lse, kept[1])


def test_bf16_partials_are_summed_in_fp32() -> None:
    q, partials, (expected, _) = parts(*[4] * 16)
    total = Accumulator(tuple(q.shape), q.device)
    for out, lse in partials:
        total.add(out.bfloat16(), lse, owned=False)
    out, _ = total.result(torch.float32)
    rounding = torch.finfo(torch.bfloat16).eps / 2
    assert relative_error(out, expected) <= 2 * rounding


def test_many_are_merged_at_once() -> None:
    _, ((out, lse), *others), (expected, expected_lse) = parts(5, 1, 30, 7)
    found, found_lse = merge(out, lse, others, torch.float32)
    assert relative_error(found, expected) <= 1e-6
    assert relative_error(found_lse, expected_lse) <= 1e-6
    none = torch.full_like(lse, -math.inf)
    empty, empty_lse = merge(torch.zeros_like(out), none, [(torch.zeros_like(out), none)] * 2, torch.float32)
    assert torch.equal(empty, torch.zeros_like(out))
    assert torch.equal(empty_lse, none)


@pytest.mark.parametrize("owned", [True, False])
def test_parts_that_are_neighbours_are_put_together_without_merging(owned: bool) -> None:
    """Of heads: some were attended here, the others come, in any order."""
    q, [(whole, whole_lse)], _ = parts(9)
    total = Accumulator(tuple(q.shape), q.device)
    own = whole[:, 1:2].clone(), whole_lse[:, 1:2].clone()
    total.add(*own, (1, 2, 0, 10), owned=owned)
    come = [(whole[:, h : h + 1], whole_lse[:, h : h + 1], (h, h + 1, 0, 10)) for h in (2, 0)]
    total.add_all(come, torch.float32)
    out, lse = total.result(torch.float32)
    assert torch.equal(out, whole) and torch.equal(lse, whole_lse)


@pytest.mark.parametrize("cuts", [[(0, 2, 0, 10), (1, 3, 0, 10)], [(0, 1, 0, 10), (2, 3, 0, 10)]], ids=["twice", "gap"])
def test_parts_that_overlap_or_leave_a_gap_are_merged(cuts: list[tuple[int, int, int, int]]) -> None:
    q, [(a, a_lse), (b, b_lse)], _ = parts(4, 9)
    total = Accumulator(tuple(q.shape), q.device)
    shown = torch.zeros(2, 3, 10, dtype=torch.bool), torch.zeros(2, 3, 10, dtype=torch.bool)
    for side, (out, lse), (low, high, _, _), seen in zip("ab", [(a, a_lse), (b, b_lse)], cuts, shown, strict=True):
        part = out[:, low:high].clone(), lse[:, low:high].clone()
        seen[:, low:high] = True
        if side == "a":
            total.add(*part, cuts[0], owned=True)
        else:
            total.add_all([(*part, cuts[1])], torch.float32)
    lses = torch.stack([a_lse, b_lse]).double().masked_fill(~torch.stack(shown), -math.inf)
    weights = torch.exp(lses - torch.logsumexp(lses, 0)).nan_to_num(0.0)
    expected = weights[0, ..., None] * a.double() + weights[1, ..., None] * b.double()
    out, lse = total.result(torch.float32)
    assert (out.double() - expected).abs().max() <= 1e-6
    assert torch.equal(lse.isinf(), torch.logsumexp(lses, 0).isinf())


def test_what_comes_is_not_kept_where_it_came() -> None:
    """Its memory is used again by the next call."""
    q, [(a, a_lse)], _ = parts(4)
    total = Accumulator(tuple(q.shape), q.device)
    total.add_all([(a, a_lse, None)], torch.float32)
    a.fill_(7.0)
    assert not torch.equal(total.result(torch.float32)[0], a)
