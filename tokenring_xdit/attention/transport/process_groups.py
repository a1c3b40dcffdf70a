"""Messages over torch's process groups, one or two for each channel; those on gloo."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.buffers import Buffers, Handle
from tokenring_xdit.attention.connections import TAG_STEP, TAGS
from tokenring_xdit.attention.transport.base import Parcel, with_own
from tokenring_xdit.attention.waits import DIRECT, Broken
from tokenring_xdit.schedule.lower.program import RankProgram

__all__ = ["GlooTransport", "ProcessGroupTransport", "Wait", "Ways", "communicator", "is_alone"]

log = logging.getLogger(__name__)

Wait = Callable[[Sequence[Handle], int], None]

Ways = tuple[dist.ProcessGroup, dist.ProcessGroup]
"""What carries messages to higher ranks, and to lower ones."""

_ALONE = "-alone"

_END = 64
"""Bytes of a large message that follow it: few, as they have to go into the socket as a whole."""


def communicator(channel: str, *, alone: bool) -> str:
    """What to call that which carries a channel.

    Args:
        channel: Its name.
        alone: Whether nothing is computed while it carries anything.
    """
    return f"{channel}{_ALONE}" if alone else channel


def is_alone(name: str) -> bool:
    """Whether :func:`communicator` gave this name to one beside which nothing is computed."""
    return name.endswith(_ALONE)


class ProcessGroupTransport(ABC):
    """What both have in common: a channel has a group for what goes to higher ranks, and one for what goes to lower.

    Args:
        rank: This rank's number in the group.
        world_size: Ranks of the group.
        device: Device of what is sent.
        wait: Waits for transfers of at most that many bytes each, in a way that can be ended.

    Attributes:
        call: Number of the call, the same on all ranks.
        bytes_sent: Payload bytes that this rank has handed over so far.
    """

    in_order: bool

    def __init__(self, rank: int, world_size: int, device: torch.device, wait: Wait) -> None:
        self.rank, self.world_size = rank, world_size
        self.buffers = Buffers()
        self.call = self.bytes_sent = 0
        self._device, self._wait = device, wait
        self._channels: dict[str, Ways] = {}
        self._alone = False  # whether the program at hand computes nothing beside its messages

    def __contains__(self, name: str) -> bool:
        return name in self._channels

    @property
    def groups(self) -> list[dist.ProcessGroup]:
        """The groups of all channels, each once."""
        return list({id(group): group for ways in [*self._channels.values()] for group in ways}.values())

    @property
    @abstractmethod
    def breakable(self) -> list[dist.ProcessGroup]:
        """Groups whose transfers can be broken off, for threads that wait for one."""

    def open(self, channel: str, first: dist.ProcessGroup, make: Callable[[str], dist.ProcessGroup]) -> None:
        """Create what carries a channel, on all ranks together.

        Args:
            channel: Its name; see :func:`communicator`.
            first: A group for it.
            make: Makes another one, of a given name.
        """
        ways = self._ways(channel, first, make)
        # NCCL builds a communicator at the first call, for which all ranks have to come.
        dist.barrier(ways[0], device_ids=[self._device.index] if self._device.type == "cuda" else None)
        self._channels[channel] = ways

    @abstractmethod
    def _ways(self, channel: str, first: dist.ProcessGroup, make: Callable[[str], dist.ProcessGroup]) -> Ways:
        """The groups of a channel."""

    def begin(self, name: str, programs: Sequence[RankProgram], dtype: torch.dtype, partial_dtype: torch.dtype) -> None:
        """Note which communicators the call takes: a message says itself where it goes."""
        self._alone = programs[self.rank].token_major  # the widest form, which waits for everything before it computes

    def end(self) -> None:
        """Forget about it."""
        self._alone = False

    def _of(self, channel: str) -> Ways:
        """What carries a channel in the call at hand."""
        alone = self._channels.get(communicator(channel, alone=True)) if self._alone else None
        return alone or self._channels[channel]

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> list[Handle]:
        """Post transfers of an agreed call, receives first, and wait for none."""
        self.bytes_sent += sum(parcel.tensor.nbytes for parcel in sends)
        try:
            return self._post(recvs, sends) if recvs or sends else []
        except RuntimeError as error:
            raise Broken(str(error)) from error

    def _post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> list[Handle]:
        # What batch_isend_irecv comes to, without its checks, which cost more than a short message.
        ways, own = self._of, self.rank
        tag = self.call % TAGS * TAG_STEP  # a message is never taken for one of another call; NCCL has no tags
        return [
            *(self._recv(ways(parcel.channel)[parcel.peer > own], parcel, tag) for parcel in recvs),
            *(self._send(ways(parcel.channel)[parcel.peer < own], parcel, tag) for parcel in sends),
        ]

    def _recv(self, group: dist.ProcessGroup, parcel: Parcel, tag: int) -> Handle:
        work: Handle = group.recv([parcel.tensor], parcel.peer, tag)
        return work

    def _send(self, group: dist.ProcessGroup, parcel: Parcel, tag: int) -> Handle:
        work: Handle = group.send([parcel.tensor], parcel.peer, tag)
        return work

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each.

        Raises:
            Broken: One failed, or there is no end to wait for.
        """
        try:
            self._wait(works, size)
        except RuntimeError as error:
            raise Broken(str(error)) from error

    def gave_up(self, error: BaseException) -> bool:
        """Never: torch says itself which wait has failed."""
        return False

    def all_gather(self, channel: str, coming: Tensor, own: Tensor) -> None:
        """Give every rank this rank's tensor and take theirs."""
        self.bytes_sent += own.nbytes * (self.world_size - 1)
        group = self._of(channel)[0]
        self._collect(lambda: group._allgather_base(coming, own), own.nbytes)

    def all_to_all(self, channel: str, coming: Tensor, going: Tensor, rows: Sequence[int], sent: Sequence[int]) -> None:
        """Give every other rank some rows and take some from each."""
        self.bytes_sent += going.nbytes // max(1, going.shape[0]) * sum(sent)
        group = self._of(channel)[0]
        sizes = with_own(rows, self.rank, coming), with_own(sent, self.rank, going)
        self._collect(lambda: group.alltoall_base(coming, going, *sizes), going.nbytes)

    def _collect(self, begin: Callable[[], dist.Work], size: int) -> None:
        try:
            work = begin()
        except RuntimeError as error:
            raise Broken(str(error)) from error
        self.wait_for([work], size)

    def close(self) -> None:
        """Close the channels, once nobody waits."""
        for group in self.groups:
            try:
                self._end(group)
            except (RuntimeError, ValueError):  # closing what is already broken
                log.debug("could not close a channel of rank %d", self.rank, exc_info=True)
        self._channels.clear()
        self.buffers.clear()  # transfers may have been left in it

    def _end(self, group: dist.ProcessGroup) -> None:
        dist.destroy_process_group(group)

    @abstractmethod
    def abort(self) -> None:
        """End what nothing else ends, from another thread."""


class _Followed:
    """A large message, and its last bytes, which follow it as a message of their own."""

    __slots__ = ("_body", "_end")

    def __init__(self, body: Handle, end: Handle) -> None:
        self._body, self._end = body, end

    def wait(self) -> None:
        """Wait for both: a connection keeps the order, and nothing is left to wait for once the end is over."""
        self._end.wait()
        self._body.wait()


class _Coming(_Followed):
    """One that comes: the wait for its end can be ended from outside, as for every short message (``waits.py``).

    So no thread has to wait in the caller's place, which takes two switches between threads for each message:
    milliseconds where ranks have less than a core each.
    """

    __slots__ = ()


class GlooTransport(ProcessGroupTransport):
    """Independent transfers, each posted for itself.

    A channel has a connection for each way between two ranks. A receive is announced to the sender, who waits for that;
    on a connection that carries data to him too the announcement would queue behind those, and what goes both ways
    would go one way after the other.
    """

    in_order = False

    def _recv(self, group: dist.ProcessGroup, parcel: Parcel, tag: int) -> Handle:
        if not _is_followed(parcel):
            return super()._recv(group, parcel, tag)
        body, end = _divided(parcel.tensor)
        return _Coming(group.recv([body], parcel.peer, tag), group.recv([end], parcel.peer, tag))

    def _send(self, group: dist.ProcessGroup, parcel: Parcel, tag: int) -> Handle:
        if not _is_followed(parcel):
            return super()._send(group, parcel, tag)
        body, end = _divided(parcel.tensor)
        return _Followed(group.send([body], parcel.peer, tag), group.send([end], parcel.peer, tag))

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each: for the last of a block first, which the others precede.

        Raises:
            Broken: One failed, or there is no end to wait for.
        """
        ends_itself = bool(works) and isinstance(works[-1], _Coming)
        super().wait_for(works[::-1], 0 if ends_itself else size)

    def _ways(self, channel: str, first: dist.ProcessGroup, make: Callable[[str], dist.ProcessGroup]) -> Ways:
        return first, make(f"{channel}-down")

    @property
    def breakable(self) -> list[dist.ProcessGroup]:
        """All."""
        return self.groups

    def abort(self) -> None:
        """Nothing: what is under way ends when its connections are broken off."""


def _is_followed(parcel: Parcel) -> bool:
    """Whether the end of a message follows it: of the tensors of a block only that of the last has to."""
    return parcel.last and parcel.tensor.nbytes > DIRECT


def _divided(message: Tensor) -> tuple[Tensor, Tensor]:
    """All of a contiguous tensor except its last bytes, and those."""
    flat = message.view(-1)
    end = _END // message.itemsize
    return flat[:-end], flat[-end:]
