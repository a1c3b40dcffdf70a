"""The GPUs of this machine, or its cores where there are none, and what ranks do with them."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from tokenring_xdit.dtypes import DtypeName
from tokenring_xdit.errors import ConfigurationError

__all__ = [
    "default_dtype",
    "device_name",
    "gpu_count",
    "processor_name",
    "rank_device",
    "refuse_missing_cores",
    "refuse_missing_gpus",
]

_RANKS_A_CORE = 16
"""More are a slip of the finger: every rank is a process that loads the model."""


def gpu_count() -> int:
    """How many GPUs torch sees on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def refuse_missing_gpus(ranks: int) -> None:
    """Refuse more ranks than this machine has GPUs, or, where it has none, than its cores can have any use of.

    Raises:
        ConfigurationError: There are too few.
    """
    gpus = gpu_count()
    if not gpus:
        refuse_missing_cores(ranks)
    elif ranks > gpus:
        raise ConfigurationError(f"{ranks} ranks were asked for and this machine has {gpus} GPUs")


def refuse_missing_cores(ranks: int) -> None:
    """Refuse more ranks on a processor than its cores can have any use of.

    Raises:
        ConfigurationError: There are too few.
    """
    cores = os.cpu_count() or 1
    if ranks > _RANKS_A_CORE * cores:
        raise ConfigurationError(
            f"{ranks} ranks were asked for without a GPU each, and this machine has {cores} cores, which could take "
            f"{_RANKS_A_CORE * cores}"
        )


def default_dtype() -> DtypeName:
    """``bfloat16`` on GPUs, ``float32`` without."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


def rank_device() -> torch.device:
    """This rank's device, which becomes the current one.

    Raises:
        ConfigurationError: This process does not see the GPU that is to be its own.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = "" if visible is None else f", as CUDA_VISIBLE_DEVICES is '{visible}'"
        raise ConfigurationError(
            f"this rank is number {number} of its node (LOCAL_RANK) and sees {gpus} GPU{'s' * (gpus != 1)}{seen}: "
            "start no more ranks on a node than it has GPUs, and have each of them see all GPUs of its node"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def device_name() -> str:
    """What ranks of this machine compute on: how their GPUs are called, or the processor, and how many cores."""
    if not torch.cuda.is_available():
        return f"{os.cpu_count() or 1} x {processor_name()}"
    try:  # torch would tell as well, and take some of the GPU's memory for that
        texts = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    except OSError:
        texts = []
    found = re.search(r"^Model:\s*(.+?)\s*$", "\n".join(texts), re.MULTILINE)
    return "GPU" if found is None else found[1]


def processor_name() -> str:
    """What this machine's processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
