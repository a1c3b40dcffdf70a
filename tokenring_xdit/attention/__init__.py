"""Exact attention over sharded sequences: the executor of proved schedules, on torch.distributed."""

from tokenring_xdit.attention.api import bytes_sent, token_ring_attention
from tokenring_xdit.attention.kernels import KERNELS, Kernel, KernelFunction

__all__ = ["KERNELS", "Kernel", "KernelFunction", "bytes_sent", "token_ring_attention"]
