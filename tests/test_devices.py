from __future__ import annotations

import pytest
import torch

from tokenring_xdit.devices import rank_device
from tokenring_xdit.errors import ConfigurationError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with two GPUs; those that become the current one."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return chosen


def test_a_rank_takes_the_gpu_of_its_number(gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_device() == torch.device("cuda", 1)
    assert gpus == [torch.device("cuda", 1)]


def test_a_rank_that_does_not_see_its_gpu_says_what_it_sees(
    gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a scheduler shows each process a GPU of its own."""
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigurationError, match=r"number 2 of its node \(LOCAL_RANK\) and sees 2 GPUs: start no more"):
        rank_device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with pytest.raises(ConfigurationError, match="sees 1 GPU, as CUDA_VISIBLE_DEVICES is '2': start"):
        rank_device()
    assert gpus == []
