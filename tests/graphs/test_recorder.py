"""What is refused before anything is captured; recording itself needs a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from unittest import mock

import pytest
import torch

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.graphs import CudaRecorder

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "NCCL_GRAPH_REGISTER"):
        monkeypatch.delenv(name, raising=False)
    with (
        mock.patch.object(torch.cuda, "Stream"),
        mock.patch.object(torch.cuda, "current_stream"),
        mock.patch.object(torch.cuda, "stream", return_value=nullcontext()),
    ):
        yield


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({}, False),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:True"}, True),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments: True"}, True),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, False),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, False),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "NCCL_GRAPH_REGISTER": "0"}, False),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "NCCL_GRAPH_REGISTER": "1"}, True),
    ],
)
def test_memory_that_nccl_cannot_register_is_refused(
    environment: dict[str, str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    words = r"^CUDA graphs with PYTORCH_(CUDA_)?ALLOC_CONF=.*: set NCCL_GRAPH_REGISTER=0 too, before the ranks start"
    with pytest.raises(UnsupportedError, match=words) if refused else nullcontext():
        CudaRecorder(GPU)


def test_a_rehearsal_counts_waits_and_tells_of_nothing_else_that_it_has_caused() -> None:
    modes: list[object] = []

    def set_mode(mode: object) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=1)

    def call() -> int:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("the model's own", stacklevel=1)
        return 7

    with (
        mock.patch.object(torch.cuda, "get_sync_debug_mode", return_value=0),
        mock.patch.object(torch.cuda, "set_sync_debug_mode", set_mode),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        found, obstacle = CudaRecorder(GPU).rehearse(call)
    assert (found, obstacle) == (7, "the host waits for the GPU in 1 of its operations")
    assert [str(each.message) for each in said] == ["the model's own"]
    assert modes == ["warn", "default"]
