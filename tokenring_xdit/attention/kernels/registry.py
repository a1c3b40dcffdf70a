"""What a local attention kernel is, what it declares, and how one is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from tokenring_xdit.errors import KernelError, nearest

__all__ = ["KERNELS", "CountedFunction", "Kernel", "KernelFunction", "choose", "register"]


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


class CountedFunction(Protocol):
    """Attention in which each item of a batch has as many keys as a tensor on the device says."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, counts: Tensor, *, scale: float | None
    ) -> tuple[Tensor, Tensor]:
        """Compute attention.

        Args:
            q: Queries, ``[B, H, Sq, D]``.
            k: Keys, ``[B, H, Skv, D]``.
            v: Values, ``[B, H, Skv, D]``.
            counts: How many of the first keys of each item count, ``[B]``, int32; the host does not look at it.
            scale: Factor on the scores; ``None`` is ``1 / sqrt(D)``.

        Returns:
            As :class:`KernelFunction`; 0 and ``-inf`` for an item without keys.
        """
        ...


@dataclass(frozen=True)
class Kernel:
    """A named kernel, and what it declares of itself.

    Attributes:
        name: Name to ask for it by.
        run: The computation.
        devices: Device types it runs on.
        dtypes: Dtypes it takes.
        preference: Higher is chosen first where several fit.
        least_capability: Compute capability of the GPU that it needs at least.
        least_for_bfloat16: The same for bf16, where it needs more.
        majors: Major compute capabilities that it was written for; ``None`` for all.
        most_head_dim: Widest head that it takes; ``None`` for any.
        wider_heads: The same on GPUs of a major compute capability, where it takes wider ones there.
        module: Module that it needs, with what to install in brackets; ``None`` where it comes with torch.
        missing: Says why else it cannot run on this installation, or ``None`` when it can.
        counted: The same with key counts on the device; ``None`` for a kernel that takes none.
        ran_here: Whether this project has run it; ``False`` for kernels written against their
            documented signature on machines without the device.
    """

    name: str
    run: KernelFunction
    devices: frozenset[str]
    dtypes: frozenset[torch.dtype]
    preference: int
    least_capability: tuple[int, int] = (0, 0)
    least_for_bfloat16: tuple[int, int] = (0, 0)
    majors: frozenset[int] | None = None
    most_head_dim: int | None = None
    wider_heads: Mapping[int, int] = field(default_factory=dict)
    module: str | None = None
    missing: Callable[[], str | None] = lambda: None
    counted: CountedFunction | None = None
    ran_here: bool = True

    def refusal(self, device: torch.device, dtype: torch.dtype, head_dim: int | None = None) -> str | None:
        """Why this kernel does not take such tensors here, or ``None`` when it does.

        Args:
            device: Where they are.
            dtype: Their dtype.
            head_dim: Width of a head, where it is known.
        """
        if device.type not in self.devices:
            return f"runs on {', '.join(sorted(self.devices))}, not on {device.type}"
        if dtype not in self.dtypes:
            return f"takes {', '.join(sorted(map(str, self.dtypes)))}, not {dtype}"
        if head_dim is not None and self.most_head_dim is not None and head_dim > self.most_head_dim:
            widest = self.wider_heads.get(_capability(device)[0], self.most_head_dim) if self.wider_heads else None
            if widest is None or head_dim > widest:
                return f"takes heads of up to {widest or self.most_head_dim}, not of {head_dim}"
        if self.module is not None and not _is_there(self.module):
            return f"needs the package {self.module}"
        return (self._refusal_of_gpu(device, dtype) if device.type == "cuda" else None) or self.missing()

    def _refusal_of_gpu(self, device: torch.device, dtype: torch.dtype) -> str | None:
        least = max(self.least_capability, self.least_for_bfloat16 if dtype == torch.bfloat16 else (0, 0))
        if least == (0, 0) and self.majors is None:
            return None
        found = _capability(device)
        if found < least:
            what = f"for {dtype} " if least > self.least_capability else ""
            return f"{what}needs a GPU of compute capability {least[0]}.{least[1]} or higher"
        if self.majors is not None and found[0] not in self.majors:
            some = " or ".join(f"{major}.x" for major in sorted(self.majors))
            return "needs a GPU of compute capability {}, and this one has {}.{}".format(some, *found)
        return None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _is_there(module: str) -> bool:
    """Whether a module can be found; ``NAME (PACKAGE)`` says what brings it."""
    try:
        found = importlib.util.find_spec(module.partition(" ")[0])
    except (ImportError, ValueError):  # of a package that is not there, or broken
        return False
    return found is not None and found.origin is not None  # a folder that other packages are put into has none


KERNELS: dict[str, Kernel] = {}


def register(kernel: Kernel) -> Kernel:
    """Add a kernel to :data:`KERNELS`, replacing one of the same name."""
    KERNELS[kernel.name] = kernel
    return kernel


def choose(
    name: str | None,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int | None = None,
    *,
    counting: bool = False,
) -> Kernel:
    """Pick a kernel by what each declares.

    Args:
        name: A name from :data:`KERNELS`, or ``None`` for the best one for the device.
        device: Where the tensors are.
        dtype: Their dtype.
        head_dim: Width of a head, where it is known.
        counting: Whether it has to take the key counts of samples from the device.

    Raises:
        KernelError: The name is unknown, or nothing takes such tensors here.
    """
    if name is not None:
        if name not in KERNELS:
            raise KernelError(f"there is no attention kernel '{name}'. {nearest(name, KERNELS)}")
        reason = KERNELS[name].refusal(device, dtype, head_dim)
        if reason is None and counting and KERNELS[name].counted is None:
            able = ", ".join(f"'{kernel.name}'" for kernel in KERNELS.values() if kernel.counted is not None)
            reason = f"cannot read key counts on the device: use one of {able}, or name no kernel"
        if reason is not None:
            raise KernelError(f"attention kernel '{name}' {reason}")
        return KERNELS[name]
    reasons = []
    for kernel in sorted(KERNELS.values(), key=lambda kernel: -kernel.preference):
        if kernel.counted is None and counting:
            continue
        reason = kernel.refusal(device, dtype, head_dim)
        if reason is None:
            return kernel
        reasons.append(f"'{kernel.name}' {reason}")
    raise KernelError(f"no attention kernel takes {dtype} on {device.type}: {'; '.join(reasons)}")
