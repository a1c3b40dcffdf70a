from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Arena, Buffers
from tokenring_xdit.schedule import build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.problem import Problem

GPU = torch.device("cuda", 0)


def places(arena: Arena) -> list[list[tuple[int, int]]]:
    """In which memory each tensor of each slot begins, and where in it."""
    return [
        [(t.untyped_storage()._cdata, t.storage_offset() * t.element_size()) for t in each] for each in arena.tensors
    ]


@pytest.mark.parametrize("name", ["direct", "token_ring", "mesh", "ring"])
@pytest.mark.parametrize("wide", [1, 2, 4])
def test_slots_of_a_gpu_are_as_far_from_each_other_in_every_call(name: str, wide: int) -> None:
    """What is merged by one kernel depends on that, and no kernel may be made while a CUDA graph is captured."""
    problem = Problem((5, 3, 8, 2), (4, 4, 4, 4), 4, 4, 20)
    buffers, empty = Buffers(), torch.empty

    def of_a_processor(*shape: Any, device: torch.device, **options: Any) -> Tensor:
        return empty(*shape, **options)

    for program in lower(replace(build(name, 4, heads=4).schedule, wide=wide), problem, in_order=True):
        with mock.patch.object(torch, "empty", of_a_processor):
            first, second = (buffers.arena(program, torch.bfloat16, torch.float32, GPU) for _ in range(2))
            one, other = places(first), places(second)
        assert len({memory for slot in one for memory, _ in slot}) == 1
        assert [[at for _, at in slot] for slot in one] == [[at for _, at in slot] for slot in other]
        assert first is not second, "another call may be part of a CUDA graph"
