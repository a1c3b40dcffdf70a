"""``schedule="auto"`` on real ranks: exact, the same everywhere, decided from what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attention import auto_jobs as jobs
from tests.support.ranks import RankFailure, RankPool
from tokenring_xdit.attention.auto import _guesses
from tokenring_xdit.errors import AgreementError, ConfigurationError, UnsupportedError
from tokenring_xdit.planning import best_schedules
from tokenring_xdit.schedule import Mask
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.topology import load_topology

FP32 = 1e-5


@pytest.mark.parametrize("ranks_", [1, 2, 3])
@pytest.mark.parametrize("given", ["mesh:4:100mbit", None])
def test_it_is_exact_and_the_same_on_all_ranks(ranks: RankPool, tmp_path: Path, ranks_: int, given: str | None) -> None:
    found = ranks.run(ranks_, jobs.calls, "auto", given, str(tmp_path), [(24, {}), (40, {}), (24, {})])
    assert all(error <= FP32 for answer in found for error, _ in answer)
    assert len({tuple(name for _, name in answer) for answer in found}) == 1


def test_measuring_settles_on_one_of_three_and_is_exact_meanwhile(ranks: RankPool, tmp_path: Path) -> None:
    found = ranks.run(3, jobs.calls, "auto:measure=true", "star:3:100mbit", str(tmp_path), [(24, {})] * 16)
    assert all(error <= FP32 for answer in found for error, _ in answer)
    names = [name for _, name in found[0]]
    assert [[name for _, name in answer] for answer in found] == [names] * 3
    assert len(set(names[:3])) == 3
    assert names[:12] == names[:3] * 4
    assert len(set(names[12:])) == 1
    assert names[12] in names[:3]


def test_without_a_topology_it_tries(ranks: RankPool, tmp_path: Path) -> None:
    found = ranks.run(2, jobs.calls, "auto", None, str(tmp_path), [(24, {})] * 17)
    names = [name for _, name in found[0]]
    assert set(names[:4]) == {"heads", "direct:chunks=4", "bidirectional", "token_ring"}
    assert names[16] in names[:4]


def test_what_is_replayed_is_planned_without_launches(ranks: RankPool, tmp_path: Path) -> None:
    found = ranks.run(4, jobs.launched_and_replayed, "hgx-h100", str(tmp_path), 24)
    problem, network = Problem.even(4, 4 * 24, 4, 8), load_topology("hgx-h100")
    best = [
        best_schedules(problem, network, cost)[0].dims.sequence_schedule for cost in (jobs.GPU, jobs.GPU.captured())
    ]
    assert best[0] != best[1]
    for answer in found:
        assert all(error <= FP32 for error, _ in answer)
        assert [name for _, name in answer] == best * 2


def test_what_is_tried_is_for_the_mask_and_runs_inside_nodes() -> None:
    full = ["heads", "direct:chunks=4", "bidirectional", "token_ring"]
    assert _guesses(Mask.FULL, 1) == full
    assert _guesses(Mask.CAUSAL, 1) == ["near_far:chunks=2", *full]
    inside = ["hierarchical:inside=direct,nodes=3", "hierarchical:inside=bidirectional,nodes=3", "hierarchical:nodes=3"]
    assert _guesses(Mask.FULL, 3) == _guesses(Mask.CAUSAL, 3) == inside


def test_a_kept_topology_is_used(ranks: RankPool, tmp_path: Path) -> None:
    found = ranks.run(2, jobs.with_kept_topology, str(tmp_path))
    assert all(len(set(names)) == 1 for names in found)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [("mesh:2:100mbit", "rank 2 of this program"), ("no-such-machine", "no-such-machine"), ("gone.yaml", "gone.yaml")],
)
def test_a_topology_that_does_not_do_is_refused_on_all_ranks_alike(
    ranks: RankPool, tmp_path: Path, given: str, message: str
) -> None:
    with pytest.raises(RankFailure) as caught:
        ranks.run(3, jobs.calls, "auto", given, str(tmp_path), [(24, {})])
    assert all(isinstance(error, ConfigurationError) and message in str(error) for error in caught.value.errors)
    assert len({str(error) for error in caught.value.errors}) == 1


def test_after_a_refusal_the_group_goes_on(ranks: RankPool, tmp_path: Path) -> None:
    assert all(error <= FP32 for error in ranks.run(2, jobs.refused_then_fine, str(tmp_path)))


def test_items_that_hide_different_keys_keep_keys_at_home_even_if_one_rank_knows(
    ranks: RankPool, tmp_path: Path
) -> None:
    found = ranks.run(3, jobs.ragged_on_one_rank, str(tmp_path))
    assert all(error <= FP32 and stays for error, stays in found)


@pytest.mark.parametrize("topology", ["two-level:2x2:1gbit:100mbit", None])
def test_where_no_schedule_will_do_all_ranks_say_so(ranks: RankPool, tmp_path: Path, topology: str | None) -> None:
    with pytest.raises(RankFailure) as caught:
        ranks.run(4, jobs.ragged_between_nodes, topology, str(tmp_path))
    assert all(isinstance(error, UnsupportedError) for error in caught.value.errors)
    assert all(
        "different attention masks" in str(e) and "one call for each sample" in str(e) for e in caught.value.errors
    )


def test_whatever_keeps_the_first_rank_from_deciding_reaches_all(ranks: RankPool, tmp_path: Path) -> None:
    with pytest.raises(RankFailure) as caught:
        ranks.run(3, jobs.without_memory, str(tmp_path))
    assert all("RuntimeError: out of memory" in str(error) for error in caught.value.errors)
    assert all(isinstance(error, ConfigurationError) for error in caught.value.errors)


def test_users_without_a_home_have_kept_nothing(ranks: RankPool) -> None:
    assert set(ranks.run(2, jobs.without_a_home)) == {"heads"}


@pytest.mark.parametrize("topology", ["ring:3:100mbit", None])
def test_a_causal_mask(ranks: RankPool, tmp_path: Path, topology: str | None) -> None:
    found = ranks.run(3, jobs.calls, "auto", topology, str(tmp_path), [(24, {"causal": True})] * 5)
    assert all(error <= FP32 for answer in found for error, _ in answer)
    tried = [name for _, name in found[0]]
    assert (tried == _guesses(Mask.CAUSAL, 1)) is (topology is None)


def test_nodes(ranks: RankPool, tmp_path: Path) -> None:
    found = ranks.run(4, jobs.calls, "auto:nodes=2", "two-level:2x2:1gbit:100mbit", str(tmp_path), [(24, {})])
    assert all(error <= FP32 and name.startswith("hierarchical") for answer in found for error, name in answer)
    with pytest.raises(RankFailure) as caught:
        ranks.run(3, jobs.calls, "auto:nodes=2", "mesh:3:1gbit", str(tmp_path), [(24, {})])
    assert all(isinstance(error, AgreementError) and "multiples of 2" in str(error) for error in caught.value.errors)


def test_the_first_rank_says_once_what_was_chosen(ranks: RankPool, tmp_path: Path) -> None:
    first, second = ranks.run(2, jobs.said, str(tmp_path))
    assert len(first) == 1
    assert "predicted on mesh:2:100mbit" in first[0]
    assert second == []
