"""Distributed attention against softmax in fp64, on real gloo ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.attention import jobs
from tests.attention.jobs import Case
from tests.support.ranks import RankFailure, RankPool
from tests.support.schedules import names
from tokenring_xdit.attention.waits import DIRECT
from tokenring_xdit.schedule import Mask

FP32 = 1e-5

SCHEDULES = [*names(any_ranks=True), "direct:chunks=3"]
"""Schedules for any number of ranks."""


EVERY_SCHEDULE = [*names(), "direct:chunks=3", "token_ring:chunks=2"]
"""For numbers of ranks that nodes divide."""

CAUSAL = names(Mask.CAUSAL, any_ranks=True)
CAUSAL += [f"{name}:chunks=3" for name in CAUSAL if name not in SCHEDULES] + ["direct:chunks=3"]
"""The same under a causal mask; what is for no other also in pieces."""

PEAKY = 1.5
"""A scale with which each query attends hardly more than a few keys: with random weights all keys count alike."""


def worst_of_each(ranks: RankPool, cases: list[Case]) -> list[dict[str, float]]:
    found = ranks.run(len(cases[0].q_lengths), jobs.errors_of, cases)
    errors = [{name: max(rank[name] for rank in case) for name in case[0]} for case in zip(*found, strict=True)]
    for case, error in zip(cases, errors, strict=True):
        print(f"{case}: out {error['out']:.1e}, lse {error['lse']:.1e}, one device {error['single']:.1e}")
    return errors


def assert_exact(ranks: RankPool, cases: list[Case], *, lse: bool = True) -> None:
    """All in one world, which takes longer to open than a case does."""
    for case, error in zip(cases, worst_of_each(ranks, cases), strict=True):
        assert error["out"] <= FP32, case
        assert not lse or error["lse"] <= FP32, case


def by_schedule(case: Case, schedules: list[str]) -> list[Case]:
    return [replace(case, schedule=schedule) for schedule in schedules]


def even(world_size: int, length: int) -> Case:
    return Case((length,) * world_size, (length,) * world_size)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8])
def test_fp32_is_exact(ranks: RankPool, world_size: int) -> None:
    assert_exact(ranks, by_schedule(replace(even(world_size, 24), batch=2), SCHEDULES))


@pytest.mark.parametrize("world_size", [2, pytest.param(5, marks=pytest.mark.smoke)])
def test_shards_may_differ_and_queries_may_be_fewer_than_keys(ranks: RankPool, world_size: int) -> None:
    case = Case(
        q_lengths=tuple(3 + 2 * rank for rank in range(world_size)),
        kv_lengths=tuple(40 - 7 * rank for rank in range(world_size)),
        strided=True,
        calls=3,
    )
    assert_exact(ranks, by_schedule(case, SCHEDULES))


@pytest.mark.parametrize(("kernel", "schedules"), [("cpu", SCHEDULES), ("math", ["ring", "token_ring"])])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_as_one_device_does(
    ranks: RankPool, dtype: torch.dtype, kernel: str, schedules: list[str]
) -> None:
    case = replace(even(4, 64), dtype=dtype, kernel=kernel, head_dim=32, partial_dtype=torch.float32)
    cases = by_schedule(case, schedules)
    exact = worst_of_each(ranks, cases)
    rounded = worst_of_each(ranks, [replace(case, partial_dtype=None) for case in cases])
    for case, errors, more in zip(cases, exact, rounded, strict=True):
        # Rounding the output to the dtype is one half unit in the last place; kernels add their own.
        assert errors["out"] <= max(errors["single"], torch.finfo(dtype).eps) * 1.5, case
        # Partials that travel in the dtype are rounded once more on the way.
        assert more["out"] <= max(errors["single"], torch.finfo(dtype).eps) * 2.5, case


@pytest.mark.parametrize("wide", [2, 64])
def test_wide_calls_and_collectives_are_exact(ranks: RankPool, wide: int) -> None:
    """Of any number of blocks, up to all in one call, and exchanges as all-gathers and all-to-alls."""
    schedules = [f"{schedule}:wide={wide}" for schedule in names(any_ranks=True)]
    case = replace(even(4, 24), scale=PEAKY)
    uneven = replace(case, q_lengths=(3, 0, 9, 5), kv_lengths=(8, 7, 0, 6))
    kinds = [replace(case, batch=2, calls=3), replace(uneven, strided=True), replace(case, home=5, hide=0.4)]
    for kind in kinds:
        assert_exact(ranks, by_schedule(kind, schedules))
    cases = by_schedule(replace(case, dtype=torch.bfloat16, partial_dtype=torch.float32), schedules)
    for case, half in zip(cases, worst_of_each(ranks, cases), strict=True):
        assert half["out"] <= max(half["single"], torch.finfo(torch.bfloat16).eps) * 1.5, case


@pytest.mark.parametrize("world_size", [4, 6, 8])
def test_nodes_of_ranks(ranks: RankPool, world_size: int) -> None:
    schedules = [
        f"hierarchical:nodes={nodes},inside={inside},chunks=2"
        for inside in ("token_ring", "direct", "ring", "bidirectional_q")
        for nodes in (2, world_size // 2)
    ]
    assert_exact(ranks, by_schedule(replace(even(world_size, 12), heads=6, kv_heads=2), schedules))


def test_any_number_of_heads(ranks: RankPool) -> None:
    for heads, kv_heads in [(5, 5), (6, 3), (8, 8), (8, 2)]:
        case = replace(even(4, 10), heads=heads, kv_heads=kv_heads)
        assert_exact(ranks, by_schedule(case, ["bidirectional", "bidirectional_q"]))


@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads"),
    [((9, 4, 6, 7, 5), 10, 5), ((9, 0, 6, 7), 8, 4), ((5, 6, 7), 5, 5), ((8, 3), 6, 3)],
)
def test_keys_that_are_joined(ranks: RankPool, lengths: tuple[int, ...], heads: int, kv_heads: int) -> None:
    case = Case(lengths, lengths[::-1], heads=heads, kv_heads=kv_heads, home=2, batch=2, calls=2)
    assert_exact(ranks, by_schedule(case, ["heads", "heads:chunks=2", "heads:peers=1", "heads:peers=2"]))


@pytest.mark.parametrize("schedule", ["token_ring", "heads"])
def test_calls_in_and_out_of_inference_mode_take_turns(ranks: RankPool, schedule: str) -> None:
    """Buffers outlive a call, and torch lets nobody write to what was made in inference mode."""
    for errors in ranks.run(4, jobs.errors_by_turns, replace(even(4, 11), schedule=schedule, heads=4, kv_heads=4)):
        assert max(errors) <= FP32


@pytest.mark.parametrize("chunks", [2, 5, 8])
def test_blocks_may_be_cut_finer_than_they_have_tokens(ranks: RankPool, chunks: int) -> None:
    case = Case((7, 4, 0, 9), (6, 1, 8, 5), heads=4, kv_heads=4, home=3, calls=2)
    assert_exact(ranks, by_schedule(case, [f"{name}:chunks={chunks}" for name in names()]))


def test_any_head_dim(ranks: RankPool) -> None:
    cases = [replace(even(2, 16), head_dim=head_dim) for head_dim in (1, 8, 20, 72, 128, 256)]
    assert_exact(ranks, cases, lse=False)


def test_grouped_keys_travel_unexpanded(ranks: RankPool) -> None:
    assert_exact(ranks, by_schedule(replace(even(3, 16), heads=6, kv_heads=2), SCHEDULES))


def test_keys_that_every_rank_holds_count_once(ranks: RankPool) -> None:
    assert_exact(ranks, by_schedule(replace(even(4, 16), home=13), SCHEDULES))


def test_causal(ranks: RankPool) -> None:
    lengths = (9, 16, 4)
    assert_exact(ranks, by_schedule(Case(lengths, lengths, causal=True, calls=3), CAUSAL))


@pytest.mark.parametrize(("lengths", "heads"), [((13,), 3), ((12, 7), 4), ((12, 7), 3), ((7, 0, 9, 5, 8, 6), 4)])
def test_causal_where_few_keys_count(ranks: RankPool, lengths: tuple[int, ...], heads: int) -> None:
    """Where all keys count alike, a block of keys that is attended twice or not at all would hardly show."""
    case = Case(lengths, lengths, causal=True, scale=PEAKY, heads=2 * heads, kv_heads=heads, batch=2)
    assert_exact(ranks, by_schedule(case, CAUSAL))


def test_scale(ranks: RankPool) -> None:
    assert_exact(ranks, [replace(even(3, 16), scale=scale) for scale in (0.05, 1.0)], lse=False)


def test_empty_shards(ranks: RankPool) -> None:
    assert_exact(ranks, by_schedule(Case((8, 0, 3), (0, 2, 9), home=2), SCHEDULES))


def test_no_keys_at_all(ranks: RankPool) -> None:
    for out, lse in ranks.run(3, jobs.without_keys):
        assert torch.equal(out, torch.zeros_like(out))
        assert torch.equal(lse, torch.full_like(lse, -math.inf))


def test_large_scores_do_not_overflow(ranks: RankPool) -> None:
    assert max(ranks.run(4, jobs.error_with_large_scores)) <= FP32


def test_a_nan_is_not_hidden(ranks: RankPool) -> None:
    assert all(ranks.run(3, jobs.nan_reaches_every_rank))


def test_buffers_are_reused_between_calls(ranks: RankPool) -> None:
    """The same buffers serve call after call, and their number does not grow with the ranks."""
    after_one, after_three = ranks.run(3, jobs.buffers_after_calls)[0]
    assert after_one == after_three
    assert ranks.run(8, jobs.buffers_after_calls)[0] == ranks.run(6, jobs.buffers_after_calls)[0]


def test_memory_stops_growing_with_the_ranks(ranks: RankPool) -> None:
    few, many = (max(ranks.run(size, jobs.bytes_held_in_a_call, 256)) for size in (5, 8))
    assert many <= 1.05 * few


def test_a_group_within_the_world_and_a_kernel_of_the_users_own(ranks: RankPool) -> None:
    assert max(ranks.run(4, jobs.error_in_strided_groups)) <= FP32


def test_a_schedule_cut_in_tokens_and_heads(ranks: RankPool) -> None:
    assert max(ranks.run(2, jobs.error_of_a_cut_schedule)) <= FP32


def test_exchanges_as_batches_in_their_turn(ranks: RankPool) -> None:
    """The way of backends that work off a channel in order."""
    cases = by_schedule(replace(even(4, 12), heads=4, kv_heads=2, calls=2), EVERY_SCHEDULE)
    for found in ranks.run(4, jobs.errors_in_batches, cases):
        assert max(found) <= FP32, found


def test_shapes_may_change_from_call_to_call_on_some_ranks_only(ranks: RankPool) -> None:
    assert max(ranks.run(3, jobs.error_with_changing_lengths)) <= FP32


def test_a_cache_key_spares_the_agreement(ranks: RankPool) -> None:
    for with_key, without in ranks.run(2, jobs.agreements_in_three_calls):
        assert (with_key, without) == (1, 3)


def test_bytes_sent_are_counted(ranks: RankPool) -> None:
    batch, heads, length, dim, world_size = 2, 3, 24, 16, 4
    block = batch * heads * length * dim * 4
    lse = batch * heads * length * 4
    case = replace(even(world_size, length), batch=batch)
    assert ranks.run(world_size, jobs.bytes_of, case) == [3 * (2 * block + lse)] * world_size
    assert ranks.run(world_size, jobs.bytes_of, replace(case, schedule="ring")) == [3 * 2 * block] * world_size


def test_what_a_rank_waits_for_messages_is_counted(ranks: RankPool) -> None:
    late = 0.3
    found = ranks.run(2, jobs.waited_for_a_late_rank, late)
    assert found[0][0] >= late  # for queries whose kernel sleeps
    for kept, traced in found:
        assert kept >= traced  # every wait of a trace is one that counts


lengths = st.integers(0, 20)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_problems(ranks: RankPool, data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, 5))
    kv_heads = data.draw(st.integers(1, 3))
    case = Case(
        q_lengths=tuple(data.draw(lengths) for _ in range(world_size)),
        kv_lengths=(data.draw(st.integers(1, 20)), *(data.draw(lengths) for _ in range(world_size - 1))),
        schedule=f"{data.draw(st.sampled_from(SCHEDULES[:-1]))}:chunks={data.draw(st.integers(1, 4))}",
        batch=data.draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        heads=kv_heads * data.draw(st.integers(1, 3)),
        head_dim=data.draw(st.integers(1, 40)),
        home=data.draw(st.integers(0, 5)),
        strided=data.draw(st.booleans()),
    )
    if sum(case.q_lengths):
        assert_exact(ranks, [case], lse=False)


def test_messages_about_the_size_from_which_their_end_follows_them(ranks: RankPool) -> None:
    tokens = DIRECT // (3 * 16 * torch.float32.itemsize)
    lengths = (tokens - 1, tokens, tokens + 1)
    assert_exact(ranks, by_schedule(Case(lengths, lengths), ["token_ring", "ring", "direct", "mesh"]))


@pytest.mark.parametrize("home", [0, 9])
def test_hidden_keys_do_not_count(ranks: RankPool, home: int) -> None:
    """The first rank hides all of its keys."""
    case = Case((7, 5, 9), (11, 8, 6), batch=2, home=home, hide=0.4, heads=4, kv_heads=2)
    assert_exact(ranks, by_schedule(case, SCHEDULES))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_items_of_a_batch_may_hide_different_keys(ranks: RankPool, world_size: int) -> None:
    for home in (0, 9):
        case = replace(even(world_size, 12), batch=3, home=home, hide=0.5, ragged=True, heads=4, kv_heads=2, calls=2)
        assert_exact(ranks, by_schedule(case, ["token_ring", "direct:chunks=2", "bidirectional_q"]))


def test_items_that_hide_different_keys_are_one_call_of_a_kernel_that_counts_them(ranks: RankPool) -> None:
    case = replace(even(2, 12), batch=3, home=9, hide=0.5, ragged=True, heads=4, kv_heads=2, calls=2, kernel="math")
    assert_exact(ranks, by_schedule(case, ["token_ring", "bidirectional_q"]))


WHOLE = ["token_ring", "direct:chunks=2", "bidirectional_q", "token_ring:wide=2"]
"""Schedules under which keys stay at home in one piece."""


def test_masks_that_stay_on_the_device(ranks: RankPool) -> None:
    case = replace(even(2, 12), batch=2, home=9, hide=0.5, heads=4, kv_heads=2, calls=2, on_device=True)
    assert_exact(ranks, by_schedule(case, WHOLE) + by_schedule(replace(case, ragged=True), WHOLE))


def test_replays_take_the_masks_of_their_call(ranks: RankPool) -> None:
    assert max(ranks.run(2, jobs.errors_of_replays_with_masks, WHOLE, False)) <= FP32
    assert min(ranks.run(2, jobs.errors_of_replays_with_masks, WHOLE[:1], True)) > 1e-2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schedule": "ring"}, "use schedule 'token_ring', where keys stay on their rank"),
        ({"kernel": "cpu"}, "'cpu' cannot read key counts on the device: use one of 'math', "),
    ],
)
def test_masks_that_stay_on_the_device_are_refused_where_they_cannot(
    ranks: RankPool, changed: dict[str, Any], message: str
) -> None:
    case = replace(even(2, 12), hide=0.5, on_device=True, **changed)
    with pytest.raises(RankFailure) as failure:
        ranks.run(2, jobs.errors, case)
    (said,) = {str(error) for error in failure.value.errors}
    assert message in said


@pytest.mark.parametrize("schedule", ["ring", "direct_kv", "bidirectional", "hierarchical"])
def test_different_keys_are_refused_where_keys_travel(ranks: RankPool, schedule: str) -> None:
    case = replace(even(2, 12), schedule=schedule, batch=2, hide=0.5, ragged=True)
    with pytest.raises(RankFailure) as failure:
        ranks.run(2, jobs.errors, case)
    messages = {str(error) for error in failure.value.errors}
    assert len(messages) == 1
    assert "use schedule 'token_ring', where keys stay on their rank" in messages.pop()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 12), "has to be bool"),
        (torch.ones(12, dtype=torch.bool), "has to be bool"),
        (torch.ones(1, 11, dtype=torch.bool), "does not fit keys"),
        (torch.ones(2, 12, dtype=torch.bool), "does not fit keys"),
    ],
)
def test_masks_that_do_not_fit_are_refused(ranks: RankPool, mask: torch.Tensor, message: str) -> None:
    with pytest.raises(RankFailure, match=message):
        ranks.run(2, jobs.with_mask, mask)


@pytest.mark.cuda
def test_gpus_in_fp32(gpu_ranks: RankPool) -> None:
    case = Case((24, 7, 16, 33), (40, 9, 24, 8), heads=4, kv_heads=2, batch=2, home=13, strided=True, calls=3)
    assert_exact(gpu_ranks, by_schedule(case, EVERY_SCHEDULE))


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "kernel"), [(torch.bfloat16, "flash"), (torch.float16, "cudnn")])
def test_gpus_in_half_precision(gpu_ranks: RankPool, dtype: torch.dtype, kernel: str) -> None:
    case = replace(even(4, 192), dtype=dtype, kernel=kernel, heads=4, kv_heads=4, head_dim=64, calls=3)
    for errors in worst_of_each(gpu_ranks, by_schedule(case, EVERY_SCHEDULE)):
        assert errors["out"] <= max(errors["single"], torch.finfo(dtype).eps) * 2.5


@pytest.mark.cuda
def test_gpus_with_masks(gpu_ranks: RankPool) -> None:
    case = Case((9, 16, 4), (9, 16, 4), batch=2, calls=2)
    cases = [replace(case, causal=True), replace(case, hide=0.4, ragged=True, home=5)]
    assert max(errors["out"] for errors in worst_of_each(gpu_ranks, cases)) <= FP32


@pytest.mark.cuda
def test_gpus_replay_captured_calls(gpu_ranks: RankPool) -> None:
    for worst_of_rank in gpu_ranks.run(4, jobs.errors_of_captured, EVERY_SCHEDULE):
        print(worst_of_rank)
        assert max(worst_of_rank.values()) <= 4 * torch.finfo(torch.bfloat16).eps
