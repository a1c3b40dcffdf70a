"""What is seen of a machine whose GPUs, driver or torch are not as they should be: stand-ins for both."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tokenring_xdit.doctor import facts


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi, to be written."""
    found = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def says(smi: Path, script: str) -> None:
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)


def fails(error: Exception) -> Any:
    def raises(*args: object) -> None:
        raise error

    return raises


@pytest.mark.parametrize(
    ("script", "driver", "said"),
    [
        ("echo 580.65.06; echo 580.65.06", "580.65.06", "this is no output of 'nvidia-smi topo -m'"),
        ("echo '[N/A]'", None, "this is no output of 'nvidia-smi topo -m'"),
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; echo 'NVML: 580.65'; exit 18",
            None,
            "topology nvidia-smi: exit status 18: Failed to initialize NVML: Driver/library version mismatch",
        ),
        ("echo 'No devices were found'; exit 6", None, "topology nvidia-smi: exit status 6: No devices were found"),
    ],
)
def test_what_nvidia_smi_says_is_kept(smi: Path, script: str, driver: str | None, said: str) -> None:
    says(smi, script)
    found = facts.look_around()
    assert (found.driver, found.smi) == (driver, None)
    assert found.smi_said.startswith(said)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Found no NVIDIA driver on your system.\nPlease check"),
        AssertionError("Found no NVIDIA driver on your system."),
    ],
)
def test_why_torch_sees_no_gpu_is_kept(error: Exception, smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fails(error))
    found = facts.look_around()
    assert (found.gpus, found.nccl, found.cuda_said) == ((), None, "Found no NVIDIA driver on your system.")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert facts.look_around().cuda_said.endswith("; CUDA_VISIBLE_DEVICES is ''")


def test_a_gpu_that_is_lost_and_a_torch_without_nccl_end_nothing(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = SimpleNamespace(name="H100", total_memory=80 << 30, major=9, minor=0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: h100)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda one, other: one == 0)
    monkeypatch.setattr(facts, "is_nccl_available", lambda: False)
    found = facts.look_around()
    assert (len(found.gpus), found.peers, found.nccl, found.cuda_said) == (2, ((0, 1),), None, "")
    monkeypatch.setattr(torch.cuda, "get_device_properties", fails(torch.AcceleratorError("CUDA error: GPU is lost")))
    found = facts.look_around()
    assert (found.gpus, found.cuda_said) == ((), "CUDA error: GPU is lost")
