"""What becomes of a kernel that fails; one that computes stands in for those of GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenring_xdit.attention.kernels import KERNELS, Kernel
from tokenring_xdit.doctor.commands import TimeKernel
from tokenring_xdit.doctor.solo import time_kernel

COMMAND = TimeKernel("broken", 8, 2, 16, "float32", 0.0)


def broken(error: Exception) -> Any:
    def run(*tensors: object, **options: object) -> None:
        raise error

    return Kernel("broken", run, frozenset({"cpu", "cuda"}), frozenset({torch.float32}), 0)  # type: ignore[arg-type]


def test_a_kernel_that_raises_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "broken", broken(RuntimeError("no plan")))
    timing = time_kernel(COMMAND)
    assert (timing.said, timing.exact, timing.seconds) == ("failed: no plan", False, None)


def test_a_kernel_after_which_a_gpu_does_nothing_more_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """All kernels after it would fail in this process, and be blamed."""
    monkeypatch.setitem(KERNELS, "broken", broken(torch.AcceleratorError("CUDA error: an illegal memory access")))
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        time_kernel(COMMAND)
