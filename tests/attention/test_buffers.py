from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.support.memory import Shards, ranks_first, run
from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention.buffers import Arena, Buffers
from tokenring_xdit.schedule import build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.problem import Problem

GPU = torch.device("cuda", 0)

UNEVEN = Problem((5, 3, 8, 2), (4, 4, 4, 4), 4, 4, 20)


def places(arena: Arena) -> list[list[tuple[int, int]]]:
    """In which memory each tensor of each slot begins, and where in it."""
    return [
        [(t.untyped_storage()._cdata, t.storage_offset() * t.element_size()) for t in each] for each in arena.tensors
    ]


@pytest.fixture
def on_processors() -> Iterator[None]:
    """Memory that is asked for on a GPU is a processor's."""
    empty = torch.empty

    def made(*shape: Any, device: torch.device | None = None, **options: Any) -> Tensor:
        return empty(*shape, device=None if device == GPU else device, **options)

    with mock.patch.object(torch, "empty", made):
        yield


def programs_of(name: str, wide: int, problem: Problem) -> Sequence[RankProgram]:
    return lower(replace(build(name, 4, heads=4).schedule, wide=wide), problem, in_order=True)


@pytest.mark.usefixtures("on_processors")
@pytest.mark.parametrize("name", ["direct", "token_ring", "mesh", "ring"])
@pytest.mark.parametrize("wide", [1, 2, 4])
def test_slots_of_a_gpu_are_as_far_from_each_other_in_every_call(name: str, wide: int) -> None:
    """What is merged by one kernel depends on that, and no kernel may be made while a CUDA graph is captured."""
    buffers = Buffers()
    for program in programs_of(name, wide, UNEVEN):
        first, second = (buffers.arena(program, torch.bfloat16, torch.float32, GPU) for _ in range(2))
        one, other = places(first), places(second)
        assert len({memory for slot in one for memory, _ in slot}) == 1
        assert [[at for _, at in slot] for slot in one] == [[at for _, at in slot] for slot in other]
        assert first is not second, "another call may be part of a CUDA graph"


@pytest.mark.usefixtures("on_processors")
@pytest.mark.parametrize(("name", "wide"), [("direct", 2), ("token_ring", 1), ("heads", 4), ("mesh", 4), ("ring", 1)])
def test_calls_in_the_memory_of_a_gpu_are_exact(name: str, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that share a piece of memory do not lie on each other."""
    arena = Buffers.arena
    monkeypatch.setattr(Buffers, "arena", lambda own, program, one, other, device: arena(own, program, one, other, GPU))
    for problem in (UNEVEN, replace(UNEVEN, q_lengths=(6,) * 4, kv_lengths=(6,) * 4, batch=2)):
        shards = Shards.of(problem)
        found = run(programs_of(name, wide, problem), problem, shards, ranks_first, in_order=True)
        for one, right in zip(found, softmax_attention(shards.q, shards.k, shards.v), strict=True):
            assert relative_error(one, right) <= 1e-5
