"""Local attention kernels that return output and log-sum-exp, chosen by name or by device."""

from tokenring_xdit.attention.kernels import builtin as _builtin  # registers the kernels
from tokenring_xdit.attention.kernels.registry import (
    KERNELS,
    CountedFunction,
    Kernel,
    KernelFunction,
    choose,
    register,
)

__all__ = ["KERNELS", "CountedFunction", "Kernel", "KernelFunction", "choose", "register"]

del _builtin
