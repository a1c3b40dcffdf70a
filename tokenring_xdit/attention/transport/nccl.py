"""Messages over NCCL, and how much of a GPU they may take from what is computed beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
import torch.distributed as dist

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.transport.base import Parcel
from tokenring_xdit.attention.transport.process_groups import ProcessGroupTransport, Ways, is_alone
from tokenring_xdit.errors import AgreementError, ConfigurationError
from tokenring_xdit.messages import shown

__all__ = ["CTAS_VARIABLE", "NcclTransport", "agreed_ctas", "ctas_beside_attention"]

CTAS_VARIABLE = "TOKENRING_NCCL_CTAS"
"""Environment variable: thread blocks that NCCL's kernels have at most beside attention; 0 for as many as it takes."""

_CTAS = 8
"""Eight ranks of Flux 1024 fill 120 of an H100's 132 multiprocessors with a wave of attention; what NCCL takes beyond
12 makes it two waves. Half of what is allowed is used for messages of 1 to 8 MB (github.com/meta-pytorch/torchcomms
issue 2635), and two channels are under way at once."""

_MOST_CTAS = 64

_MOST_WARMED = 16
"""Ranks of which each has memory for every other one on every channel; of more only those that send each other."""


def ctas_beside_attention() -> int:
    """What the environment says, or 8.

    Raises:
        ConfigurationError: It is no such number.
    """
    text = os.environ.get(CTAS_VARIABLE, str(_CTAS))
    if not text.isascii() or not text.isdigit() or int(text) > _MOST_CTAS:
        raise ConfigurationError(
            f"{CTAS_VARIABLE}={shown(text)} is no number of thread blocks: say 1 to {_MOST_CTAS}, or 0 for as many as "
            "NCCL takes"
        )
    return int(text)


def agreed_ctas(asked: Sequence[int], names: Sequence[str]) -> int | None:
    """What communicators are made with; ``None`` where NCCL may take what it wants.

    Args:
        asked: What the environment of each rank says.
        names: What to call each rank.

    Raises:
        AgreementError: They differ; the same on every rank.
    """
    if len({*asked}) > 1:
        said = ", ".join(f"{ctas} on rank {name}" for ctas, name in zip(asked, names, strict=True))
        raise AgreementError(f"{CTAS_VARIABLE} is {said}: set it to the same on all ranks, or on none")
    return asked[0] or None


class NcclTransport(ProcessGroupTransport):
    """Exchanges that are worked off one after the other on each channel, each posted as a whole.

    What two ranks need to reach each other NCCL makes at their first message, which takes long and cannot be captured
    in a CUDA graph: it is made with the channel, for all of them.
    """

    in_order = True

    def open(self, channel: str, first: dist.ProcessGroup, make: Callable[[str], dist.ProcessGroup]) -> None:
        """As in the base class; every rank has a message of every other one then."""
        super().open(channel, first, make)
        peers = [peer for peer in range(self.world_size) if peer != self.rank]
        if len(peers) < _MOST_WARMED:
            here, there = (torch.zeros(self.world_size, 1, device=self._device) for _ in range(2))
            recvs, sends = ([Parcel(channel, tensor[peer], peer) for peer in peers] for tensor in (here, there))
            for work in self.post(recvs, sends):
                work.wait()
            self.bytes_sent -= sum(parcel.tensor.nbytes for parcel in sends)  # which are nobody's blocks
        if is_alone(channel):
            everyone = torch.zeros(self.world_size, device=self._device)
            self._channels[channel][0]._allgather_base(everyone, everyone[:1].clone()).wait()

    def _ways(self, channel: str, first: dist.ProcessGroup, make: Callable[[str], dist.ProcessGroup]) -> Ways:
        return first, first

    @property
    def breakable(self) -> list[dist.ProcessGroup]:
        """None: they are aborted."""
        return []

    def _post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> list[Handle]:
        # Of one channel: what works in order has no receives of others posted early.
        group = self._of((recvs or sends)[0].channel)[0]
        group._start_coalescing(self._device)
        try:
            works = super()._post(recvs, sends)
        except BaseException:
            with suppress(RuntimeError):  # else NCCL would hold back whatever this thread posts, on any communicator
                group._end_coalescing(self._device)
            raise
        return [group._end_coalescing(self._device)] * len(works)

    def _end(self, group: dist.ProcessGroup) -> None:
        # Destroying a group flushes it, which a transfer without a partner would block.
        dist.distributed_c10d._abort_process_group(group)

    def abort(self) -> None:
        """Abort the communicators; not run on several GPUs."""
        for group in self.groups:
            with suppress(RuntimeError, ValueError):  # another thread may have closed it
                dist.distributed_c10d._abort_process_group(group)
