"""What a local attention kernel is, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenring_xdit.errors import KernelError, nearest

__all__ = ["KERNELS", "Kernel", "KernelFunction", "choose", "register"]


class KernelFunction(Protocol):
    """Attention of one query block over one key/value block, on one device."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        """Compute attention.

        Args:
            q: Queries, ``[B, H, Sq, D]``.
            k: Keys, ``[B, H, Skv, D]``.
            v: Values, ``[B, H, Skv, D]``.
            scale: Factor on the scores; ``None`` is ``1 / sqrt(D)``.
            causal: Whether query ``i`` sees keys ``0..i`` only.

        Returns:
            Output ``[B, H, Sq, D]`` in the dtype of ``q``, in memory of its own, and the natural
            log-sum-exp of the scaled scores ``[B, H, Sq]``, fp32.
        """
        ...


@dataclass(frozen=True)
class Kernel:
    """A named kernel and where it works.

    Attributes:
        name: Name to ask for it by.
        run: The computation.
        devices: Device types it runs on.
        dtypes: Dtypes it takes.
        preference: Higher is chosen first where several fit.
        missing: Says why it cannot run on this installation, or ``None`` when it can.
        ran_here: Whether this project has run it; ``False`` for kernels written against their
            documented signature on machines without the device.
    """

    name: str
    run: KernelFunction
    devices: frozenset[str]
    dtypes: frozenset[torch.dtype]
    preference: int
    missing: Callable[[], str | None] = lambda: None
    ran_here: bool = True

    def refusal(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this kernel does not take such tensors here, or ``None`` when it does."""
        if device.type not in self.devices:
            return f"runs on {', '.join(sorted(self.devices))}, not on {device.type}"
        if dtype not in self.dtypes:
            return f"takes {', '.join(sorted(map(str, self.dtypes)))}, not {dtype}"
        return self.missing()


KERNELS: dict[str, Kernel] = {}


def register(kernel: Kernel) -> Kernel:
    """Add a kernel to :data:`KERNELS`, replacing one of the same name."""
    KERNELS[kernel.name] = kernel
    return kernel


def choose(name: str | None, device: torch.device, dtype: torch.dtype) -> Kernel:
    """Pick a kernel.

    Args:
        name: A name from :data:`KERNELS`, or ``None`` for the best one for the device.
        device: Where the tensors are.
        dtype: Their dtype.

    Raises:
        KernelError: The name is unknown, or nothing takes such tensors here.
    """
    if name is not None:
        if name not in KERNELS:
            raise KernelError(f"there is no attention kernel '{name}'. {nearest(name, KERNELS)}")
        reason = KERNELS[name].refusal(device, dtype)
        if reason is not None:
            raise KernelError(f"attention kernel '{name}' {reason}")
        return KERNELS[name]
    fitting = [k for k in KERNELS.values() if k.refusal(device, dtype) is None]
    if not fitting:
        reasons = "; ".join(f"'{k.name}' {k.refusal(device, dtype)}" for k in KERNELS.values())
        raise KernelError(f"no attention kernel takes {dtype} on {device.type}: {reasons}")
    return max(fitting, key=lambda k: k.preference)
