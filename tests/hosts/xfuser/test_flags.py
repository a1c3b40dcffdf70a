from __future__ import annotations

from typing import Any

import pytest

from tests.hosts.xfuser import jobs
from tests.support.ranks import RankPool
from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.hosts.xfuser.choice import make_choice
from tokenring_xdit.hosts.xfuser.families import FAMILIES
from tokenring_xdit.parallel import ParallelDims


@pytest.fixture(scope="module")
def seen(ranks: RankPool) -> dict[str, Any]:
    return ranks.run(2, jobs.flags, timeout=300)[0]


@pytest.mark.parametrize("style", ["--tokenring_degree", "--tokenring-degree"])
def test_the_flag_becomes_a_ring_degree_and_a_choice(seen: dict[str, Any], style: str) -> None:
    assert seen[style] == (2, 1, ParallelDims(tokenring=2, schedule="ring"), 1)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ((4, None, 2), (8, "hierarchical")),
        ((2, "direct:chunks=4", 3), (6, "hierarchical:chunks=4,inside=direct,nodes=3")),
        ((4, "direct:chunks=4", 1), (4, "direct:chunks=4")),
        ((1, "direct", 2), None),
        ((4, "auto", 1), (4, "auto")),
        ((4, "auto:measure=true", 2), (8, "auto:measure=true,nodes=2")),
        ((4, "auto:nodes=2", None), (4, "auto:nodes=2")),
        ((8, "direct", 128), (1024, "hierarchical:inside=direct,nodes=128")),
    ],
)
def test_with_a_ring_degree_tokenring_runs_inside_nodes(
    given: tuple[int, str | None, int], chosen: tuple[int, str] | None
) -> None:
    dims = make_choice(*given)
    assert (None if dims is None else (dims.sequence_ranks, dims.sequence_schedule)) == chosen


def test_a_schedule_that_is_not_defined_for_so_many_ranks_is_refused() -> None:
    with pytest.raises(ScheduleError, match="works for multiples of 2 ranks, not for 5"):
        make_choice(5, "hierarchical", None)


@pytest.mark.parametrize(
    ("nodes", "message"), [(None, "under a causal mask only, and a full mask"), (2, "no inside=near_far")]
)
def test_a_schedule_for_causal_masks_is_refused(nodes: int | None, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make_choice(4, "near_far", nodes)


def test_without_the_flag_nothing_is_chosen(seen: dict[str, Any]) -> None:
    assert seen["off"] is None


def test_the_runner_keeps_the_flag(seen: dict[str, Any]) -> None:
    assert seen["runner"] == 2


def test_help_tells_of_the_flags(seen: dict[str, Any]) -> None:
    assert "--tokenring_degree" in seen["help"]
    assert "--tokenring_schedule" in seen["help"]


def test_cuda_graphs_are_of_the_command_and_refused_where_they_cannot_be(seen: dict[str, Any]) -> None:
    assert not seen["no graphs"]  # programs of one's own call transformers as they like
    assert seen["graphs"].startswith("--tokenring_cuda_graphs needs a GPU with CUDA")
    assert "cannot be combined with --use_torch_compile" in seen["graphs and compile"]


def test_what_cannot_work_is_refused(seen: dict[str, Any]) -> None:
    assert "schedule 'hierarchical' has no inside=mesh" in seen["both"]
    assert "Did you mean 'ring'?" in seen["schedule"]
    assert "has to be a whole number of at least 1" in seen["degree"]
    assert "Use tokenring_degree=4 with ulysses_degree=1" in seen["three"]


def test_models_that_cannot_be_compared_are_refused_before_they_are_loaded(seen: dict[str, Any]) -> None:
    assert "tokenring_degree=2 was asked for with LingBot-Video-MoE" in seen["LingBot-Video-MoE"]
    assert seen["FLUX.1-dev"] == "xFuserFluxModel"


def test_the_models_that_are_let_through_exist(seen: dict[str, Any]) -> None:
    assert seen["models"] >= {runner for family in FAMILIES.values() for runner in family.runners}


@pytest.mark.parametrize("schedule", ["auto:speed=1", "auto:measure=maybe", "auto:measure=true,measure=true"])
def test_what_auto_does_not_know_is_refused(schedule: str) -> None:
    with pytest.raises(ScheduleError, match=r"auto|measure"):
        make_choice(4, schedule, 1)


def test_nodes_are_said_once_and_have_as_many_ranks_each() -> None:
    with pytest.raises(ConfigurationError, match=r"'auto:nodes=2' and ring_degree=2 both say how many nodes"):
        make_choice(4, "auto:nodes=2", 2)
    with pytest.raises(ConfigurationError, match=r"'auto:nodes=3': 4 ranks do not divide by 3 nodes"):
        make_choice(4, "auto:nodes=3", None)


def test_a_ring_degree_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ring_degree is 0; it has to be a whole number of at least 1"):
        make_choice(4, None, 0)
