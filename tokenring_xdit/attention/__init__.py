"""Exact attention over sharded sequences: the executor of proved schedules, on torch.distributed."""

from tokenring_xdit.attention.api import bytes_sent, token_ring_attention
from tokenring_xdit.attention.calibrate import calibrate
from tokenring_xdit.attention.kernels import KERNELS, Kernel, KernelFunction
from tokenring_xdit.attention.masks import KeyMask

__all__ = ["KERNELS", "Kernel", "KernelFunction", "KeyMask", "bytes_sent", "calibrate", "token_ring_attention"]
