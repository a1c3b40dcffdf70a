"""Process groups with their channels: one communicator for each direction of traffic."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Sequence
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.agreement import CallSpec, Layout, handshake
from tokenring_xdit.attention.auto import AutoSchedule
from tokenring_xdit.attention.buffers import BufferPool
from tokenring_xdit.errors import AgreementError, CommunicationError, ConfigurationError
from tokenring_xdit.schedule import Channel

__all__ = ["AGREEMENT_TIMEOUT_VARIABLE", "RingGroup", "clear_buffers"]

log = logging.getLogger(__name__)

AGREEMENT_TIMEOUT_VARIABLE = "TOKENRING_AGREEMENT_TIMEOUT"
"""Environment variable: seconds to wait for the other ranks when a call with a known layout key changes."""

_REMEMBERED = 1024
"""Agreements that a group remembers; prompts of a serving process bring a new mask each."""

_DEFAULT_AGREEMENT_TIMEOUT = 120.0

_UNUSED_TAG = 5040
"""Not 0, which all transfers have, but for gloo on several interfaces the same one of them: a multiple of 1 to 10."""

_groups: dict[str, RingGroup] = {}


class RingGroup:
    """What this package keeps for a process group.

    Attributes:
        rank: This process's rank in the group.
        world_size: Number of ranks in the group.
        peers: Global rank of each rank of the group.
        pool: Message buffers.
        bytes_sent: Payload bytes that this rank has handed to sends so far.
        receives_early: Whether a receive may be posted before its turn, which spares its sender a round
            trip: so on gloo, where transfers are independent. NCCL works off a channel in order.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        self.peers = dist.get_process_group_ranks(group)
        self.pool = BufferPool()
        self.bytes_sent = 0
        self.receives_early = False
        self._batches = False  # whether transfers that are posted together have one work
        self._device = torch.device("cpu")  # of what is sent
        self._channels: dict[Channel, tuple[dist.ProcessGroup, dist.ProcessGroup]] = {}  # to higher ranks, to lower
        self._control: dist.ProcessGroup | None = None
        self._agreed: dict[tuple[Hashable, CallSpec], Layout] = {}
        self._broken: str | None = None
        self._auto: AutoSchedule | None = None

    @property
    def auto(self) -> AutoSchedule:
        """The schedules that were chosen for this group."""
        if self._auto is None:
            self._auto = AutoSchedule(self.control_group(), self.peers, self.rank)
        return self._auto

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> RingGroup:
        """The one for ``group``, or for the default group.

        Raises:
            ConfigurationError: torch.distributed is not initialised, or this rank is not in the group.
        """
        if not dist.is_initialized():
            raise ConfigurationError(
                "attention over several ranks needs torch.distributed: call "
                "torch.distributed.init_process_group() first, or start the program with torchrun"
            )
        resolved = dist.group.WORLD if group is None else group
        if resolved is None or dist.get_rank(resolved) < 0:
            raise ConfigurationError("this rank does not belong to the process group it was given")
        known = _groups.get(resolved.group_name)
        if known is None or known._group is not resolved:  # the name comes again after a re-initialisation
            known = _groups[resolved.group_name] = cls(resolved)
        return known

    def settle_layout(
        self, report: CallSpec | str, channels: tuple[Channel, ...], device: torch.device, key: Hashable | None
    ) -> Layout:
        """Agree with the other ranks on a call, and open the channels it needs.

        Args:
            report: This rank's call, or why it refuses.
            channels: Channels of the schedule, the same on all ranks.
            device: Where the tensors are.
            key: What the caller knows to be the same on all ranks and to change when any rank's
                shapes do: a call seen with it before is not agreed on again. ``None`` agrees on
                every call, which costs one small collective on the CPU.

        Raises:
            AgreementError: The same on every rank, when their calls do not fit together.
            CommunicationError: An earlier call on this group failed, or a rank did not come.
        """
        if self._broken is not None:
            raise CommunicationError(f"an earlier attention call on this process group failed: {self._broken}")
        known = key is not None and isinstance(report, CallSpec) and self._agreed.get((key, report))
        if known:
            return known
        # The first agreement may have to wait for slow starters. Later, with keys, a rank whose call
        # changed alone would wait for peers that have gone on: that wait is bounded.
        timeout = _agreement_timeout() if key is not None and self._agreed else None
        try:
            layout = handshake(report, self.control_group(), timeout)
            self.open(channels, device)
        except RuntimeError as error:
            changed = ": did the shapes change on some ranks only?" if timeout is not None else ""
            message = (
                f"rank {self.rank} asked the other ranks to agree on a call and not all of them came{changed} "
                f"Asked: {report}. torch.distributed says: {error}"
            )
            self.fail(message)
            raise CommunicationError(message) from error
        assert isinstance(report, CallSpec)  # a refusal has raised on all ranks
        if key is not None:
            self._agreed[key, report] = layout
            if len(self._agreed) > _REMEMBERED:  # the oldest, which is the same on all ranks
                del self._agreed[next(iter(self._agreed))]
        return layout

    def post(
        self, channel: Channel, recvs: Sequence[tuple[Tensor, int]], sends: Sequence[tuple[Tensor, int]]
    ) -> list[dist.Work]:
        """Post transfers on a channel of an agreed call, receives first, and wait for none.

        Args:
            channel: The channel.
            recvs: Memory, and the rank of this group that fills it.
            sends: Contiguous tensors, and the rank of this group that gets them.

        Returns:
            What to wait for, for each receive and then for each send.
        """
        up, down = self._channels[channel]
        self.bytes_sent += sum(tensor.nbytes for tensor, _ in sends)
        if not (recvs or sends):
            return []
        # What batch_isend_irecv comes to, without its checks, which cost more than a short message.
        if self._batches:
            up._start_coalescing(self._device)
        works = [
            *((up if peer < self.rank else down).recv([tensor], peer, 0) for tensor, peer in recvs),
            *((up if peer > self.rank else down).send([tensor], peer, 0) for tensor, peer in sends),
        ]
        return [up._end_coalescing(self._device)] * len(works) if self._batches else works

    def fail(self, reason: str) -> None:
        """Give this group up: close its channels and refuse further calls.

        On gloo the peers' transfers fail at once. On NCCL they end with the watchdog's timeout.
        """
        self._broken = reason
        for group in self._opened():
            nccl = dist.get_backend(group) == "nccl"
            try:
                # Destroying an NCCL group flushes it, which a transfer without a partner would block.
                dist.distributed_c10d._abort_process_group(group) if nccl else dist.destroy_process_group(group)
            except (RuntimeError, ValueError):  # closing what is already broken
                log.debug("could not close a channel of rank %d", self.rank, exc_info=True)
        self._channels.clear()

    def break_off(self) -> None:
        """Make every transfer that is under way on gloo fail, here and at the peers, for threads that wait for one.

        Closing a group does not end such a wait, and the wait keeps the group from being closed. What does is that a
        receive times out: gloo then closes all connections of its group. No peer ever sends with this tag.

        One wait goes on until the timeout of the group: that for a message which gloo was writing when the connection
        broke. It has left the list of those that wait for their turn, and is told nothing (``handleRemotePendingRecv``
        of gloo's ``transport/tcp/pair.cc``).
        """
        for group in self._opened():
            for peer in range(self.world_size):
                if peer != self.rank:
                    with suppress(RuntimeError):  # the timeout, or what is broken already
                        group.recv([torch.empty(1)], peer, _UNUSED_TAG).wait(timedelta(milliseconds=1))

    def control_group(self) -> dist.ProcessGroup | None:
        """A group on gloo for what is not attention, made by all ranks together; ``None`` for a single rank."""
        if self.world_size > 1 and self._control is None:
            self._control = self._new_group("control", backend="gloo")
        return self._control

    def open(self, channels: tuple[Channel, ...], device: torch.device) -> None:
        """Create channels on all ranks together, as a schedule may give a rank nothing to do on one.

        On gloo a channel has a connection for each way between two ranks. A receive is announced to the sender, who
        waits for that; on a connection that carries data to him too the announcement would queue behind those, and
        what goes both ways would go one way after the other.
        """
        for channel in channels:
            if channel not in self._channels:
                up = down = self._new_group(channel.value)
                self._device, self._batches = device, up._get_backend(device).supports_coalescing
                self.receives_early = not self._batches
                if self.receives_early:
                    down = self._new_group(f"{channel.value}-down")
                self._channels[channel] = up, down
                # NCCL builds a communicator at the first call, for which all ranks have to come.
                dist.barrier(up, device_ids=[device.index] if device.type == "cuda" else None)

    def _opened(self) -> list[dist.ProcessGroup]:
        """The groups of all channels, each once."""
        return list({id(group): group for ways in self._channels.values() for group in ways}.values())

    def _new_group(self, purpose: str, *, backend: str | None = None) -> dist.ProcessGroup:
        everyone = self.world_size == dist.get_world_size()
        if not everyone and self._control is None:
            self._refuse_unequal_histories()
        group: dist.ProcessGroup = dist.new_group(
            self.peers,
            backend=backend,
            timeout=self._timeout(),  # torch's own default otherwise, whatever the caller's group has
            # Other ranks of the world need not call attention at the same time, or at all.
            use_local_synchronization=not everyone,
            group_desc=f"tokenring-{purpose}",
            sort_ranks=False,
        )
        return group

    def _timeout(self) -> timedelta | None:
        """How long transfers on the caller's group may take; ``None`` where its backend has no such limit."""
        options = self._group._get_backend(self._group._device_types[0]).options
        return getattr(options, "_timeout", None)

    def _refuse_unequal_histories(self) -> None:
        """Refuse groups whose members would name a new group differently, and so wait for each other for ever.

        torch 2.13 derives the name of a locally synchronised group from the number of groups that a
        rank belongs to (``distributed_c10d._hash_ranks_to_str``).
        """
        count: int = len(dist.distributed_c10d._world.pg_names)
        counts = [0] * self.world_size
        dist.all_gather_object(counts, count, group=self._group)
        if len(set(counts)) > 1:
            raise AgreementError(
                f"the ranks {self.peers} belong to {counts} process groups, and torch can only make channels for a "
                "part of the world between ranks that belong to equally many: create groups of equal shape on all "
                "ranks, or call attention on this group before creating the others"
            )


def clear_buffers() -> None:
    """Let go of the message buffers that all groups of this process keep; the next calls allocate their own."""
    for group in _groups.values():
        group.pool.clear()


def _agreement_timeout() -> timedelta:
    text = os.environ.get(AGREEMENT_TIMEOUT_VARIABLE, str(_DEFAULT_AGREEMENT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if seconds <= 0:
        raise ConfigurationError(f"{AGREEMENT_TIMEOUT_VARIABLE}={text!r} is not a positive number of seconds")
    return timedelta(seconds=seconds)
