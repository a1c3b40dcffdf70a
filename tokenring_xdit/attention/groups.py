"""Process groups with their channels: one communicator for each direction of traffic."""

from __future__ import annotations

import logging
import os
from datetime import timedelta

import torch.distributed as dist

from tokenring_xdit.attention.agreement import CallSpec, Layout, agree, exchange_reports
from tokenring_xdit.attention.buffers import BufferPool
from tokenring_xdit.errors import AgreementError, CommunicationError, ConfigurationError
from tokenring_xdit.schedule import Channel

__all__ = ["AGREEMENT_TIMEOUT_VARIABLE", "RingGroup"]

log = logging.getLogger(__name__)

AGREEMENT_TIMEOUT_VARIABLE = "TOKENRING_AGREEMENT_TIMEOUT"
"""Environment variable: seconds to wait for the other ranks when the shapes of a call change."""

_DEFAULT_AGREEMENT_TIMEOUT = 120.0

_groups: dict[str, RingGroup] = {}


class RingGroup:
    """What this package keeps for a process group.

    Attributes:
        rank: This process's rank in the group.
        world_size: Number of ranks in the group.
        peers: Global rank of each rank of the group.
        pool: Message buffers.
        bytes_sent: Payload bytes that this rank has handed to sends so far.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        self.peers = dist.get_process_group_ranks(group)
        self.pool = BufferPool()
        self.bytes_sent = 0
        self._channels: dict[Channel, dist.ProcessGroup] = {}
        self._control: dist.ProcessGroup | None = None
        self._agreed: dict[CallSpec, Layout] = {}
        self._broken: str | None = None

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

    def settle_layout(self, report: CallSpec | str, channels: tuple[Channel, ...]) -> Layout:
        """Agree with the other ranks on a call, and open the channels it needs, once for each distinct call.

        Later calls with the same shapes exchange nothing. A call whose shapes changed on some ranks
        only cannot be answered by the others, so the wait is bounded; when it ends, the channels are
        closed and the others fail as well instead of waiting for blocks that never come.

        Args:
            report: This rank's call, or why it refuses.
            channels: Channels of the schedule, the same on all ranks.

        Raises:
            AgreementError: The same on every rank, when their calls do not fit together.
            CommunicationError: An earlier call on this group failed.
        """
        if self._broken is not None:
            raise CommunicationError(f"an earlier attention call on this process group failed: {self._broken}")
        if isinstance(report, CallSpec) and report in self._agreed:
            return self._agreed[report]
        if self.world_size == 1:
            layout = agree([report])
        else:
            first = self._control is None
            if self._control is None:
                self._control = self._new_group("control", backend="gloo", timeout=self._timeout())
            try:
                layout = agree(exchange_reports(report, self._control))
            except RuntimeError as error:
                asked = report if isinstance(report, str) else f"{report}"
                message = (
                    f"rank {self.rank} asked the other ranks to agree on a call and not all of them came"
                    + ("" if first else ": did the shapes change on some ranks only?")
                    + f" Asked: {asked}. torch.distributed says: {error}"
                )
                self.fail(message)
                raise AgreementError(message) from error
        for channel in channels:
            if channel not in self._channels:
                group = self._channels[channel] = self._new_group(channel.value)
                # NCCL builds a communicator at the first call, for which all ranks have to come; a
                # schedule may give some of them nothing to do on a channel.
                dist.barrier(group)
        assert isinstance(report, CallSpec)  # a refusal has raised on all ranks
        self._agreed[report] = layout
        return layout

    def channel(self, channel: Channel) -> dist.ProcessGroup:
        """The process group that carries a channel of an agreed call."""
        return self._channels[channel]

    def fail(self, reason: str) -> None:
        """Give this group up: close its channels, so that peers fail too, and refuse further calls."""
        self._broken = reason
        for group in self._channels.values():
            try:
                dist.destroy_process_group(group)
            except (RuntimeError, ValueError):  # closing what is already broken
                log.debug("could not close a channel of rank %d", self.rank, exc_info=True)
        self._channels.clear()

    def _new_group(
        self, purpose: str, *, backend: str | None = None, timeout: timedelta | None = None
    ) -> dist.ProcessGroup:
        group: dist.ProcessGroup = dist.new_group(
            self.peers,
            backend=backend,
            timeout=timeout,
            use_local_synchronization=True,
            group_desc=f"tokenring-{purpose}",
        )
        return group

    @staticmethod
    def _timeout() -> timedelta:
        text = os.environ.get(AGREEMENT_TIMEOUT_VARIABLE, str(_DEFAULT_AGREEMENT_TIMEOUT))
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if seconds <= 0:
            raise ConfigurationError(f"{AGREEMENT_TIMEOUT_VARIABLE}={text!r} is not a positive number of seconds")
        return timedelta(seconds=seconds)
