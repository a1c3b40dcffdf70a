"""Ranks that do not fit together: the same clear error everywhere, and never a hang."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.attention import jobs
from tests.support.ranks import RankPool
from tokenring_xdit.attention.agreement import CallSpec, agree
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.errors import AgreementError, ConfigurationError

SPEC = CallSpec(
    schedule="token_ring",
    plan="0",
    mask="full",
    dtype=torch.float32,
    partial_dtype=torch.float32,
    device="cpu",
    batch=1,
    heads=2,
    kv_heads=2,
    head_dim=16,
    scale=None,
    joint_length=0,
    q_length=8,
    kv_length=8,
)

DISAGREEMENTS: list[tuple[dict[str, Any], str]] = [
    ({"heads": 4}, "heads is 2 on rank 0 and 2, 4 on rank 1"),
    ({"head_dim": 8}, "head dim is 16 on rank 0 and 2, 8 on rank 1"),
    ({"dtype": torch.bfloat16}, "dtype is torch.float32 on rank 0 and 2, torch.bfloat16 on rank 1"),
    ({"schedule": "ring"}, "schedule is token_ring on rank 0 and 2, ring on rank 1"),
    ({"causal": True}, "mask is full on rank 0 and 2, causal on rank 1"),
    ({"scale": 0.5}, "scale is None on rank 0 and 2, 0.5 on rank 1"),
    ({"partial_dtype": torch.float16}, "partial dtype is torch.float32 on rank 0 and 2, torch.float16 on rank 1"),
    ({"schedule": "tokenring"}, "rank 1: there is no schedule 'tokenring'"),
    ({"kernel": "cudnn"}, "rank 1: attention kernel 'cudnn' runs on cuda, not on cpu"),
    ({"kernel": "fast"}, "rank 1: there is no attention kernel 'fast'"),
    ({"dims": 3}, "rank 1: expected q [B, H, Sq, D]"),
    ({"dtype": torch.float64}, "rank 1: no attention kernel takes torch.float64"),
    ({"gradients": True}, "rank 1: q, k, v or joint_kv require gradients, and TokenRing has no backward pass"),
]


@pytest.mark.parametrize(("changes", "message"), DISAGREEMENTS)
def test_every_rank_gets_the_same_error(ranks: RankPool, changes: dict[str, Any], message: str) -> None:
    answers = ranks.run(3, jobs.call_with, {1: changes})
    assert len(set(answers)) == 1
    assert answers[0].startswith("AgreementError: ")
    assert message in answers[0]


def test_shard_lengths_may_differ(ranks: RankPool) -> None:
    assert ranks.run(3, jobs.call_with, {1: {"length": 5}}) == ["ran"] * 3


def test_all_problems_are_told_at_once(ranks: RankPool) -> None:
    (answer, *others) = ranks.run(3, jobs.call_with, {0: {"schedule": "x"}, 2: {"dims": 2}})
    assert set(others) == {answer}
    assert "rank 0: there is no schedule 'x'" in answer
    assert "rank 2: expected q" in answer


def test_heads_that_differ_are_told_where_the_plan_depends_on_them(ranks: RankPool) -> None:
    """Rank 1 has an odd number of heads, so that its plan is another one."""
    changes = {rank: {"schedule": "bidirectional", "heads": 3 if rank == 1 else 2} for rank in range(3)}
    answers = ranks.run(3, jobs.call_with, changes)
    assert len(set(answers)) == 1
    assert "heads is 2 on rank 0 and 2, 3 on rank 1" in answers[0]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("hierarchical", "'hierarchical' over 2 nodes works for multiples of 2 ranks, not for 3"),
        ("mesh:rows=2", "'mesh' with 2 rows works for multiples of 2 ranks, not for 3"),
        ("direct:chunk=2", "'direct' has no option 'chunk'"),
    ],
)
def test_schedules_that_do_not_fit_the_group_are_refused(ranks: RankPool, schedule: str, message: str) -> None:
    answers = ranks.run(3, jobs.call_with, {rank: {"schedule": schedule} for rank in range(3)})
    assert len(set(answers)) == 1
    assert answers[0].startswith("AgreementError: ") and message in answers[0]


def test_without_a_key_every_call_is_agreed_on(ranks: RankPool) -> None:
    assert ranks.run(3, jobs.call_between_good_calls, {1: {"length": 5}}, None) == [("ran",) * 3] * 3
    for first, second, third in ranks.run(3, jobs.call_between_good_calls, {1: {"heads": 4}}, None):
        assert (first, third) == ("ran", "ran")
        assert second.startswith("AgreementError: ") and "4 on rank 1" in second


def test_a_change_under_a_key_on_one_rank_only_ends_in_errors_on_all_ranks(ranks: RankPool) -> None:
    """The others do not look; the wait is bounded, and nobody is left waiting for blocks."""
    answers = ranks.run(3, jobs.call_between_good_calls, {1: {"length": 5}}, "key")
    for rank, (first, second, third) in enumerate(answers):
        assert first == "ran"
        assert second.startswith("CommunicationError: ")
        assert f"rank {rank} waited for " in second or "did the shapes change on some ranks only?" in second
        assert "did not come within 6 s, though " in second
        assert third.startswith("CommunicationError: an earlier attention call")


def test_a_change_under_a_key_on_all_ranks_is_agreed_on_anew(ranks: RankPool) -> None:
    change = {rank: {"length": 5, "heads": 4} for rank in range(3)}
    assert ranks.run(3, jobs.call_between_good_calls, change, "key") == [("ran",) * 3] * 3


def test_a_kernel_that_fails_on_one_rank_fails_the_call_on_all(ranks: RankPool) -> None:
    for rank, (first, second) in enumerate(ranks.run(3, jobs.call_whose_kernel_fails_on_one_rank)):
        assert first.startswith("MemoryError: the card is full" if rank == 1 else "CommunicationError: rank")
        assert second.startswith("CommunicationError: an earlier attention call on this process group failed")


def test_the_timeout_of_a_group_bounds_its_calls(ranks: RankPool) -> None:
    answers = ranks.run(3, jobs.call_to_which_one_rank_does_not_come)
    assert answers[1] == "stayed away"
    for rank in (0, 2):
        assert answers[rank].startswith("CommunicationError: rank 1 (process ")
        assert "did not come within 6 s, though its process runs: rank" in answers[rank]
        assert "waited for the other ranks to reach call 2, attention" in answers[rank]


def test_groups_that_torch_would_name_differently_are_refused(ranks: RankPool) -> None:
    answers = ranks.run(3, jobs.call_in_lopsided_groups)
    assert [world for world, _ in answers] == ["ran"] * 3
    assert answers[1][1] == "ran"
    for rank in (0, 2):
        assert answers[rank][1].startswith("AgreementError: the ranks [0, 2] belong to ")


def test_agreement_keeps_the_lengths_of_all_ranks() -> None:
    layout = agree([SPEC, replace(SPEC, q_length=3, kv_length=5)])
    assert (layout.q_lengths, layout.kv_lengths) == ((8, 3), (8, 5))


def test_causal_needs_as_many_queries_as_keys() -> None:
    causal = replace(SPEC, mask="causal")
    with pytest.raises(AgreementError, match=r"as many queries as keys"):
        agree([causal, replace(causal, q_length=3)])


def test_without_torch_distributed_the_message_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="torchrun"):
        RingGroup.of()
