from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from functools import reduce, wraps
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from packaging.version import Version

from tests.support.ranks import RankPool
from tokenring_xdit.compat.torch import (
    RELIED_ON,
    SYMMETRIC_MEMORY,
    frame_outside_graphs,
    in_place_of,
    nccl_options,
    new_group,
    symmetric_memory_lacks,
)


def names_that_are_gone() -> list[str]:
    """Looked up where a world is, which some of them hold."""
    gone = []
    for name in RELIED_ON:
        try:
            reduce(getattr, name.split("."), dist)
        except AttributeError:
            gone.append(name)
    return gone


def order_of(ranks: list[int]) -> list[int]:
    """What a group of these ranks, in this order, has as the numbers of its members."""
    group = new_group(ranks, backend="gloo", timeout=timedelta(seconds=60))
    found = [torch.zeros(1) for _ in ranks]
    dist.all_gather(found, torch.tensor([float(dist.get_rank())]), group=group)
    return [int(each) for each in found]


def made_in_a_bound_world() -> tuple[bool, bool]:
    """Two ranks make a group; whether torch asks what to split it off, and whether the world is as it was."""
    world: Any = dist.group.WORLD
    world.bound_device_id = torch.device("cuda", 0)
    asked = mock.Mock(return_value=None)
    with mock.patch.object(dist.distributed_c10d, "_get_split_source", asked):
        if dist.get_rank() < 2:
            new_group([0, 1], backend="gloo", timeout=timedelta(seconds=60), use_local_synchronization=True)
    bound, world.bound_device_id = world.bound_device_id, None
    return asked.called, bound == torch.device("cuda", 0)


def test_a_group_of_some_ranks_does_not_wait_for_the_others_in_a_world_bound_to_a_device(ranks: RankPool) -> None:
    """Splitting a communicator takes all ranks of the world, and the third one has no part in this group."""
    assert ranks.run(3, made_in_a_bound_world) == [(False, True)] * 3


def test_names_relied_on_exist(ranks: RankPool) -> None:
    assert ranks.run(1, names_that_are_gone) == [[]]


def test_names_of_symmetric_memory_exist_or_are_told() -> None:
    """Without one of them GPUs go over NCCL, which the log says."""
    older = Version(torch.__version__) < Version("2.10")
    assert set(symmetric_memory_lacks()) <= ({"get_backend", "_SymmetricMemory.signal_pad_size"} if older else set())
    with mock.patch("tokenring_xdit.compat.torch.symmetric_memory", return_value=SimpleNamespace(rendezvous=1)):
        assert symmetric_memory_lacks() == [name for name in SYMMETRIC_MEMORY if name != "rendezvous"]


def test_a_size_of_signals_that_only_objects_have_is_lacking() -> None:
    """As before torch 2.10."""
    names = {name.partition(".")[2]: 1 for name in SYMMETRIC_MEMORY if "." in name}
    of_objects = SimpleNamespace(**{**names, "signal_pad_size": property(lambda own: 9216)})
    older = SimpleNamespace(get_backend=1, rendezvous=1, _SymmetricMemory=of_objects)
    with mock.patch("tokenring_xdit.compat.torch.symmetric_memory", return_value=older):
        assert symmetric_memory_lacks() == ["_SymmetricMemory.signal_pad_size"]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_a_group_keeps_the_order_where_torch_can(order: list[int], ranks: RankPool) -> None:
    kept = order if "sort_ranks" in inspect.signature(dist.new_group).parameters else sorted(order)
    assert ranks.run(3, order_of, order) == [kept] * 3


def test_what_is_put_round_a_function_outside_graphs_stays() -> None:
    def make(number: int, inner: Callable[[], list[int]]) -> Callable[[], list[int]]:
        @wraps(inner)
        def outer() -> list[int]:
            return [number, *inner()]

        return frame_outside_graphs(outer)

    assert make(1, make(2, make(3, lambda: [])))() == [1, 2, 3]


def test_a_function_in_the_place_of_another_keeps_what_torch_noted_on_it() -> None:
    def first(number: int) -> str:
        return f"first {number}"

    def around(inner: Callable[[int], str]) -> Callable[[int], str]:
        return in_place_of(inner, frame_outside_graphs(lambda number: f"around {inner(number)}"))

    twice = around(around(first))
    assert twice(1) == "around around first 1"
    assert list(inspect.signature(twice).parameters) == ["number"]
    assert twice.__name__ == "first"
    assert torch.compiler.disable(twice, recursive=False)(1) == "around around first 1"


@pytest.mark.parametrize("knows", ["max_ctas", "blocking", None], ids=str)
def test_options_of_nccl_as_far_as_torch_knows_them(knows: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """``config`` is there where torch was built with NCCL 2.14 or newer, ``max_ctas`` in it with 2.17 or newer."""

    class Options:
        def __init__(self, is_high_priority_stream: bool = False) -> None:
            self.is_high_priority_stream, self._timeout = is_high_priority_stream, timedelta(minutes=10)
            if knows is not None:
                self.config = SimpleNamespace(**{knows: -1})

    monkeypatch.setattr(dist, "ProcessGroupNCCL", SimpleNamespace(Options=Options), raising=False)
    found: Any = nccl_options(8, timedelta(minutes=3))
    assert (found.is_high_priority_stream, found._timeout) == (True, timedelta(minutes=3))
    if knows is not None:
        assert vars(found.config) == {knows: 8 if knows == "max_ctas" else -1}
    free: Any = nccl_options(None, None)
    assert free is not found
    assert free._timeout == timedelta(minutes=10)


def test_a_torch_without_nccl_has_no_options_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(dist, "ProcessGroupNCCL", raising=False)
    assert nccl_options(8, None) is None
