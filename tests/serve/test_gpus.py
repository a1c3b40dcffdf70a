"""Figures of GPUs: absent where there is no library, and read as it tells them. Not run on a GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py comes with the extra 'gpu'")

from tokenring_xdit.serve.gpus import GpuMeters, management_library  # noqa: E402

ROOT = Path(__file__).parents[2]


def test_without_nvidias_library_there_is_nothing_to_ask() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        assert management_library() is None
    else:
        pytest.skip("NVIDIA's library is here")


def refused(gpu: int) -> None:
    if gpu:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def handle(index: int) -> int:
    if index == 2:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    return index


def fields(gpu: int, asked: list[tuple[int, int]]) -> Any:
    assert [scope for _, scope in asked] == [2**32 - 1] * 2
    values = (pynvml.c_nvmlFieldValue_t * 2)()
    for value, (field, _), told in zip(values, asked, (7, 9), strict=True):
        value.fieldId, value.value.ullVal = field, told
        value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED if gpu else pynvml.NVML_SUCCESS
    return values


TOLD: dict[str, Any] = {
    "nvmlDeviceGetCount": lambda: 3,
    "nvmlDeviceGetHandleByIndex": handle,
    "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=25, memory=1),
    "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=2**36, used=2**35, free=2**35),
    "nvmlDeviceGetPowerUsage": lambda gpu: refused(gpu) or 700_000,
    "nvmlDeviceGetTemperature": lambda gpu, sensor: 60 + sensor,
    "nvmlDeviceGetFieldValues": fields,
}
"""Calls on a machine of two GPUs, the second of which tells less, and of one that is lost."""


def test_what_gpus_tell_is_shown_and_the_rest_absent() -> None:
    constants = {name: value for name, value in vars(pynvml).items() if name.startswith("NVML") and name not in TOLD}
    assert vars(pynvml).keys() >= TOLD.keys()
    families = GpuMeters(SimpleNamespace(**constants, **TOLD)).collect()
    shown = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    both = {
        "hw_gpu_utilization_ratio": 0.25,
        "hw_gpu_memory_usage_bytes": 2**35,
        "hw_gpu_memory_limit_bytes": 2**36,
        "hw_gpu_temperature_celsius": 60,
    }
    expected: dict[Any, float] = {(name, gpu): value for gpu in "01" for name, value in both.items()}
    expected["hw_gpu_power_watts", "0"] = 700.0
    expected["hw_gpu_io_bytes_total", "0", "transmit"] = 7 * 1024
    expected["hw_gpu_io_bytes_total", "0", "receive"] = 9 * 1024
    assert shown == pytest.approx(expected)
    for page in ("deploy/grafana/tokenring.json", "docs/serving.md"):
        text = (ROOT / page).read_text()
        assert [name for name in {key[0] for key in shown} if name not in text] == [], page
