"""Calibration: of the kernel that would run, at the speed that it has while the other ranks compute."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokenring_xdit.attention import calibrate
from tokenring_xdit.attention.kernels import KERNELS, choose

CPU = torch.device("cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A rank with one thread, as where several share a machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("ranks_here", [1, 2, 64])
def test_as_many_compute_at_once_as_ranks_will(ranks_here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = choose(None, CPU, torch.float32)
    lock, here, most = threading.Lock(), 0, 0

    def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        try:
            return usual.run(q, k, v, scale=scale, causal=causal)
        finally:
            with lock:
                here -= 1

    monkeypatch.setitem(KERNELS, "watched", replace(usual, name="watched", run=run, preference=usual.preference + 1))
    cost = calibrate(CPU, torch.float32, 4, 64, ranks_here=ranks_here, ranks=128)
    cores = os.cpu_count() or 1
    assert most == min(ranks_here, cores)
    assert cost.cores == cores * 128 / ranks_here  # other machines are like this one
    assert 0 < cost.attend_rate < float("inf")
    assert 0 < cost.fold_rate < float("inf")
