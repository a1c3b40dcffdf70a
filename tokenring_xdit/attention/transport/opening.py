"""The transports of a group, which its ranks open together: what schedules need, and what the ranks have asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist

from tokenring_xdit.attention.rounds import Rounds
from tokenring_xdit.attention.transport.choice import Standpoint, Wanted, why_not_shared
from tokenring_xdit.attention.transport.nccl import NcclTransport, agreed_ctas, ctas_beside_attention
from tokenring_xdit.attention.transport.over_memory import over_memory
from tokenring_xdit.attention.transport.process_groups import GlooTransport, ProcessGroupTransport, communicator
from tokenring_xdit.attention.transport.slots import SlotTransport
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.schedule import Channel

__all__ = ["Channels", "GroupTransports"]

log = logging.getLogger(__name__)

Channels = Sequence[tuple[Channel, bool]]
"""Channels, each with whether nothing is computed beside what it carries."""


class GroupTransports:
    """What carries the messages of a group.

    Args:
        ranks: The group.
        rank: This rank's number in it.
        world_size: Its ranks.

    Attributes:
        current: What carries the messages of programs, since they were made ready for.
        messages: What carries messages beside programs, once its channels are open; the same where no memory is shared.
    """

    def __init__(self, ranks: Rounds, rank: int, world_size: int) -> None:
        self._ranks = ranks
        self.messages: ProcessGroupTransport = GlooTransport(rank, world_size, torch.device("cpu"), ranks.wait_aside)
        self._memories: dict[torch.device, SlotTransport | None] = {}  # where the ranks have tried to share memory
        self.current: ProcessGroupTransport | SlotTransport = self.messages

    @property
    def _shared(self) -> list[SlotTransport]:
        """Over memory that the ranks share."""
        return [each for each in self._memories.values() if each is not None]

    @property
    def _all(self) -> list[ProcessGroupTransport | SlotTransport]:
        return [self.messages, *self._shared]

    @property
    def bytes_sent(self) -> int:
        """Payload bytes that this rank has handed over so far."""
        return sum(each.bytes_sent for each in self._all)

    @property
    def streams_wait(self) -> bool:
        """Whether streams of a GPU wait for messages, and not the host: what works in order."""
        return any(each.in_order for each in self._all)

    @property
    def breakable(self) -> list[dist.ProcessGroup]:
        """Groups whose transfers can be broken off."""
        return self.messages.breakable

    def begin(self, call: int) -> None:
        """Begin a call, of that number."""
        self.messages.call = self.current.call = call

    def make_ready(self, channels: Channels, device: torch.device, asked: str) -> None:
        """Have what carries the programs of some schedules ready, on all ranks together.

        Args:
            channels: Those of the schedules.
            device: Where the tensors are.
            asked: What the ranks have agreed to ask for, a value of :class:`Wanted`.

        Raises:
            AgreementError: On all ranks alike, where they are to have channels that differ.
            CommunicationError: A rank did not come, or failed.
        """
        symmetric = asked == Wanted.SYMMETRIC.value and self._ranks.world_size > 1
        if symmetric and device not in self._memories:
            self._memories[device] = self._share_memory(device)
        shared = self._memories[device] if symmetric else None
        if shared is not None:
            self.current = shared
        else:
            self.open(channels, device)
            self.current = self.messages
        self.current.call = self._ranks.call  # which it has not been told of where another one was used before

    def _share_memory(self, device: torch.device) -> SlotTransport | None:
        """Memory that the ranks share; ``None``, and a line that says why, where they cannot."""
        ranks = self._ranks
        found = [Standpoint(*each) for each in ranks.swap_within_call(tuple(Standpoint.own(ranks.space, device)))]
        why_not = why_not_shared(found, ranks.names)
        if why_not is None:
            try:
                return over_memory(
                    ranks.process_group, device, ranks.swap_within_call, ranks.wait_here, ranks.patience, ranks.reach
                )
            except Broken as error:
                why_not = str(error)
        if ranks.rank == 0:
            kind = "process groups" if device.type == "cpu" else "NCCL"
            log.warning("attention of ranks %s goes over %s, not over shared memory: %s", ranks.peers, kind, why_not)
        return None

    def open(self, channels: Channels, device: torch.device) -> None:
        """Create channels on all ranks together, as a schedule may give a rank nothing to do on one.

        Raises:
            AgreementError: On all ranks alike, where they are to have channels that differ.
            CommunicationError: A rank did not come, or failed.
        """
        ranks, on_gpus = self._ranks, device.type == "cuda"
        for channel, alone in channels:
            name = communicator(channel.value, alone=alone and on_gpus)
            if name not in self.messages:
                beside = on_gpus and not alone
                asked = ranks.swap_within_call(ctas_beside_attention()) if beside else [0]
                ctas = agreed_ctas(asked, ranks.names[: len(asked)])
                ranks.make(f"channel {name}", partial(self._open_one, name, device, ctas))

    def _open_one(self, name: str, device: torch.device, ctas: int | None) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        ranks = self._ranks
        first = ranks.new_group(name, ctas=ctas)
        if not self.messages.groups:
            # On a GPU the device waits, not the host.
            on_nccl = first._get_backend(device).supports_coalescing
            kind, wait = (NcclTransport, ranks.wait_here) if on_nccl else (GlooTransport, ranks.wait_aside)
            self.messages = kind(ranks.rank, ranks.world_size, device, wait)
            self.messages.call = ranks.call
        self.messages.open(name, first, ranks.new_group)

    def clear_buffers(self) -> None:
        """Let go of message buffers; memory that ranks share stays: they would have to let it go together."""
        self.messages.buffers.clear()
        self.current.buffers.clear()

    def forget(self) -> None:
        """Close what is left of a group that was destroyed: memory that its ranks share, where no stream may use it."""
        for memory in self._shared:
            if memory.in_order:
                memory.close()

    def abort(self) -> None:
        """End what can be ended, from another thread."""
        for each in self._all:
            each.abort()

    def close(self) -> None:
        """Close what there is, once nobody waits."""
        for each in self._all:
            each.close()
