"""What a call of the attention kernel takes, against an H100's own times."""

from __future__ import annotations

import pytest

from tokenring_xdit.planning import Attention, Machine, Problem, gathered, run
from tokenring_xdit.topology import load_topology

H100 = Machine.of_gpus(678e12)

MEASURED = [
    (128, 128, 24, 7.9), (288, 288, 24, 12.2), (576, 576, 24, 16.0), (576, 4608, 24, 63.1), (1152, 1152, 24, 36.5),
    (2112, 264, 24, 31.6), (264, 2112, 24, 36.0), (2112, 2112, 3, 34.7), (2112, 2112, 24, 129.1),
    (4224, 4224, 24, 328.5), (4608, 4608, 3, 61.2), (16896, 16896, 3, 641.4), (9450, 9450, 5, 389.5),
    (9450, 9450, 40, 3192.4),
]  # fmt: skip
"""Queries, keys, heads of 128, and microseconds: cuDNN's kernel on an H100, bf16 (docs/gpu.md)."""


def call(queries: int, keys: int, heads: int) -> Attention:
    return Attention(4.0 * queries * keys * heads * 128, heads, queries)


@pytest.mark.parametrize(("queries", "keys", "heads", "us"), MEASURED)
def test_calls_of_a_gpu_take_waves_of_its_multiprocessors(queries: int, keys: int, heads: int, us: float) -> None:
    """Rates alone miss the same calls by a third."""
    assert H100.attend(call(queries, keys, heads)) * 1e6 == pytest.approx(us, rel=0.15)


@pytest.mark.parametrize("cost", [H100, Machine(attend_rate=5e10, attend_overhead=2e-4)])
def test_the_rate_is_found_from_a_call(cost: Machine) -> None:
    work = call(2112, 264, 24)
    assert cost.attend_rate_of(work, cost.attend(work)) == pytest.approx(cost.attend_rate)


def test_work_that_fits_a_wave_takes_as_long_as_the_wave() -> None:
    assert H100.attend(call(128, 4096, 1)) == H100.attend(call(128, 4096, 132))
    assert H100.attend(call(1, 4096, 1)) == pytest.approx(H100.attend(call(128, 4096, 1)))
    assert H100.attend(call(128, 4096, 133)) > 1.9 * H100.attend(call(128, 4096, 132))


def test_ranks_without_queries_attend_nothing() -> None:
    problem = Problem((0, 512), (256, 256), 4, 4, 64)
    assert run("", gathered(problem), load_topology("mesh:2:1tbit"), H100).makespan > 0
