"""Exact attention over sharded sequences: the executor of proved schedules, on torch.distributed."""

from tokenring_xdit.attention.api import bytes_sent, token_ring_attention
from tokenring_xdit.attention.calibrate import calibrate
from tokenring_xdit.attention.checks import why_not_on_device
from tokenring_xdit.attention.hosts import exchange, guarded
from tokenring_xdit.attention.kernels import KERNELS, Kernel, KernelFunction
from tokenring_xdit.attention.masks import DeviceKeyMask, KeyMask
from tokenring_xdit.attention.tracing import Trace, record_trace

__all__ = [
    "KERNELS",
    "DeviceKeyMask",
    "Kernel",
    "KernelFunction",
    "KeyMask",
    "Trace",
    "bytes_sent",
    "calibrate",
    "exchange",
    "guarded",
    "record_trace",
    "token_ring_attention",
    "why_not_on_device",
]
