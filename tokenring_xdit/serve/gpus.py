"""GPUs of this machine, as NVIDIA's management library tells of them; where there are none, or no library, nothing.

Not run on a GPU.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["GpuMeters", "management_library"]

log = logging.getLogger(__name__)

_ALL_LINKS = 2**32 - 1
"""Scope of NVLink's counters that adds up those of all links."""

_PERCENT, _MILLIWATTS, _KIB = 0.01, 0.001, 1024

_GAUGES: dict[str, tuple[str, Callable[[Any, Any], float]]] = {
    "hw_gpu_utilization_ratio": (
        "Share of the last moments during which a GPU computed",
        lambda nvml, gpu: _PERCENT * nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    ),
    "hw_gpu_memory_usage_bytes": (
        "Used memory of a GPU, by all processes",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    "hw_gpu_memory_limit_bytes": (
        "Memory of a GPU",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    "hw_gpu_power_watts": (
        "Power that a GPU draws",
        lambda nvml, gpu: _MILLIWATTS * nvml.nvmlDeviceGetPowerUsage(gpu),
    ),
    "hw_gpu_temperature_celsius": (
        "Temperature of a GPU",
        lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    ),
}


def management_library() -> Any:
    """The module of ``nvidia-ml-py``, ready to be asked; ``None`` where it, or NVIDIA's library, is not here."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.debug("no figures of GPUs: %s", error)
        return None
    return nvml


class GpuMeters(Collector):
    """Figures of all GPUs of this machine, asked for when somebody looks.

    What a GPU does not tell is absent, and so is a GPU that is gone.

    Args:
        nvml: What :func:`management_library` found.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """As Prometheus has it collected."""
        gpus = self._gpus()
        for name, (words, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, words, labels=["gpu"])
            for index, gpu in gpus.items():
                value = self._told(lambda read=read, gpu=gpu: read(self._nvml, gpu))  # type: ignore[misc]
                if value is not None:
                    gauge.add_metric([str(index)], value)
            yield gauge
        moved = CounterMetricFamily("hw_gpu_io_bytes", "Sent and received over NVLink", labels=["gpu", "direction"])
        for index, gpu in gpus.items():
            for direction, value in self._over_links(gpu).items():
                moved.add_metric([str(index), direction], value)
        yield moved

    def _gpus(self) -> dict[int, Any]:
        count = self._told(self._nvml.nvmlDeviceGetCount) or 0
        found = {i: self._told(lambda i=i: self._nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)}  # type: ignore[misc]
        return {index: gpu for index, gpu in found.items() if gpu is not None}

    def _over_links(self, gpu: Any) -> dict[str, float]:
        nvml = self._nvml
        fields = {
            "transmit": nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
            "receive": nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
        }
        asked = [(field, _ALL_LINKS) for field in fields.values()]
        values = self._told(lambda: nvml.nvmlDeviceGetFieldValues(gpu, asked)) or ()
        told = zip(fields, values, strict=False)
        return {name: _KIB * value.value.ullVal for name, value in told if value.nvmlReturn == nvml.NVML_SUCCESS}

    def _told(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._nvml.NVMLError as error:
            log.debug("a GPU does not tell: %s", error)
            return None
