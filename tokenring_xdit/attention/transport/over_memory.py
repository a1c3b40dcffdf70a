"""Makes what carries programs over memory that ranks reach, of processors or of GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.transport.shared_memory import SMALLEST, SharedMemory
from tokenring_xdit.attention.transport.slots import SlotTransport
from tokenring_xdit.attention.transport.streamed import StreamedTransport
from tokenring_xdit.attention.transport.symmetric import SymmetricTransport
from tokenring_xdit.attention.transport.torch_memory import CudaLanes, TorchMemory

__all__ = ["over_memory"]


def over_memory(
    group: dist.ProcessGroup,
    device: torch.device,
    swap: Callable[[Any], list[Any]],
    wait: Callable[[Sequence[Handle], int], None],
    bound: Callable[[], float],
    together: Callable[[Callable[[], Any]], Any],
) -> SlotTransport:
    """Make memory that all ranks of a group reach, on all of them together.

    Args:
        group: The group.
        device: Where this rank's tensors are.
        swap: Gives every rank a value of each; all of them call it.
        wait: Waits for transfers of at most that many bytes each, and can be ended.
        bound: For how many seconds to wait for a rank at most.
        together: Returns what a job does that blocks until all ranks have come.

    Raises:
        Broken: Some rank could not; the same on all of them.
    """
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    if device.type == "cpu":
        area = SharedMemory(rank, world_size, swap)
        area.grow(SMALLEST)
        return SymmetricTransport(area, wait, bound)
    memory = TorchMemory(group, rank, world_size, device, swap, together)
    memory.grow(SMALLEST)
    return StreamedTransport(memory, CudaLanes(device), bound)
