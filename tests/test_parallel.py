"""How ranks are divided: what is checked, and what is said of it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.parallel import ParallelDims


@pytest.mark.parametrize(
    ("dims", "ranks", "sequence", "words"),
    [
        (ParallelDims(), 1, 1, "one rank"),
        (ParallelDims(ulysses=4), 4, 1, "ulysses 4"),
        (ParallelDims(ring=3), 3, 3, "xfuser-ring 3"),
        (ParallelDims(ulysses=2, tokenring=3), 6, 3, "ulysses 2 x token_ring 3"),
        (ParallelDims(2, 4, 3, "direct:chunks=4"), 24, 12, "ulysses 2 x direct:chunks=4 4 x nodes 3"),
    ],
)
def test_degrees_multiply(dims: ParallelDims, ranks: int, sequence: int, words: str) -> None:
    assert (dims.ranks, dims.sequence_ranks, str(dims)) == (ranks, sequence, words)


@pytest.mark.parametrize(
    ("dims", "schedule"),
    [
        (ParallelDims(tokenring=4), "token_ring"),
        (ParallelDims(tokenring=4, ring=2), "hierarchical"),
        (ParallelDims(tokenring=2, ring=3, schedule="direct:chunks=4"), "hierarchical:chunks=4,inside=direct,nodes=3"),
        (ParallelDims(tokenring=4, ring=2, schedule="auto:measure=true"), "auto:measure=true,nodes=2"),
    ],
)
def test_between_nodes_keys_go_round(dims: ParallelDims, schedule: str) -> None:
    assert dims.sequence_schedule == schedule
    assert pickle.loads(pickle.dumps(dims)) == dims  # whether or not that was asked before


@pytest.mark.parametrize("name", ["ulysses", "tokenring", "ring"])
@pytest.mark.parametrize("degree", [0, -1, True, 2.0, "2", None])
def test_a_degree_is_a_whole_number(name: str, degree: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}_degree is .*; it has to be a whole number of at least 1"):
        ParallelDims(**{name: degree})


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ({"schedule": 3}, ConfigurationError, "schedule is 3; it has to be a name"),
        ({"schedule": "rinn"}, ScheduleError, "Did you mean 'ring'"),
        ({"tokenring": 5, "schedule": "hierarchical"}, ScheduleError, "works for multiples of 2 ranks, not for 5"),
        ({"tokenring": 4, "ring": 2, "schedule": "auto:nodes=2"}, ConfigurationError, "leave one of them out"),
        ({"tokenring": 4, "schedule": "auto:nodes=3"}, ConfigurationError, "4 ranks do not divide by 3 nodes"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ParallelDims(**asked)
