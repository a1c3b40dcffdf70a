"""What a process serves that looks at this machine and times its kernels; it has no other ranks."""

from __future__ import annotations

import math
import statistics

import torch

from tokenring_xdit.attention.calibrate import call_times
from tokenring_xdit.attention.kernels import KERNELS
from tokenring_xdit.devices import rank_device
from tokenring_xdit.doctor.cases import ERROR_LIMITS
from tokenring_xdit.doctor.commands import LookAround, TimeKernel
from tokenring_xdit.doctor.facts import look_around
from tokenring_xdit.doctor.record import KernelTiming
from tokenring_xdit.doctor.reference import difference, made, softmax64
from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.workers.loop import Commands, Mailbox

__all__ = ["commands", "time_kernel"]

_PEAK = 2.0
_ROWS = 64
"""Queries that are compared with fp64."""


def commands(mailbox: Mailbox) -> Commands:
    """Nothing to get ready."""
    return {LookAround: lambda command: look_around(), TimeKernel: time_kernel}


@torch.inference_mode()
def time_kernel(command: TimeKernel) -> KernelTiming:
    """Time a kernel and compare some rows with fp64; what it raises is said.

    Raises:
        torch.AcceleratorError: What ends all use of a GPU by this process: the next kernel needs another one.
    """
    device, dtype = rank_device(), torch_dtype(command.dtype)
    timing = KernelTiming(kernel=command.kernel, problem=command.problem, dtype=command.dtype)
    kernel = KERNELS[command.kernel]
    refusal = kernel.refusal(device, dtype, command.head_dim)
    if refusal is not None:
        return timing.model_copy(update={"said": refusal})
    shape = (1, command.heads, command.tokens, command.head_dim)
    q, k, v = (made(seed, shape, peak).to(dtype).to(device) for seed, peak in ((0, _PEAK), (1, _PEAK), (2, 1.0)))
    try:
        out, _ = kernel.run(q, k, v, scale=None, causal=False)
        seconds = statistics.median(
            call_times(lambda: kernel.run(q, k, v, scale=None, causal=False), device, command.seconds)
        )
    except torch.AcceleratorError:
        raise
    except (RuntimeError, ImportError, TypeError) as error:
        return timing.model_copy(update={"said": f"failed: {error}", "exact": False})
    rows = torch.linspace(0, command.tokens - 1, min(_ROWS, command.tokens)).round().long()
    expected, _ = softmax64(q[:, :, rows.to(device)], k, v)
    off = difference(out[:, :, rows.to(device)], expected)
    exact = off <= ERROR_LIMITS[command.dtype]  # which NaN is not
    flops = 4.0 * command.heads * command.tokens**2 * command.head_dim / seconds
    known = {"said": "the output is not a number"} if math.isnan(off) else {"error": off}
    return timing.model_copy(update={"seconds": seconds, "flops": flops, "exact": exact, **known})
