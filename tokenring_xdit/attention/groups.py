"""Process groups with their channels: one communicator for each direction of traffic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.agreement import CallSpec, Layout, agree, digest, same_lengths_where_needed
from tokenring_xdit.attention.auto import AutoSchedule
from tokenring_xdit.attention.buffers import Buffers, Handle
from tokenring_xdit.attention.connections import TAG_STEP, TAGS
from tokenring_xdit.attention.member import in_words
from tokenring_xdit.attention.rounds import Report, Rounds
from tokenring_xdit.attention.transport.base import Parcel
from tokenring_xdit.attention.waits import DIRECT, Broken
from tokenring_xdit.attention.watch import Watch
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.schedule import Channel

__all__ = ["RingGroup", "clear_buffers", "failing_together", "group_of"]

log = logging.getLogger(__name__)

_REMEMBERED = 1024
"""Agreements that a group remembers; prompts of a serving process bring a new mask each."""

_groups: dict[str, RingGroup] = {}


class RingGroup(Rounds):
    """What this package keeps for a process group.

    Attributes:
        buffers: Memory for messages.
        bytes_sent: Payload bytes that this rank has handed to sends so far.
        in_order: Whether exchanges of a channel are worked off one after the other, as NCCL does it; transfers of gloo
            are independent.
        guard: What ``hosts.py`` keeps for this group.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.bytes_sent = 0
        self.in_order = True
        self.guard: Any = None
        self.buffers = Buffers()
        self._batches = False  # whether transfers that are posted together have one work
        self._device = torch.device("cpu")  # of what is sent
        self._channels: dict[str, tuple[dist.ProcessGroup, dist.ProcessGroup]] = {}  # to higher ranks, to lower
        self._agreed: dict[tuple[Hashable, CallSpec], Layout] = {}
        self._auto: AutoSchedule | None = None
        super().__init__(group)

    @property
    def auto(self) -> AutoSchedule:
        """The schedules that were chosen for this group."""
        if self._auto is None:
            self._auto = AutoSchedule(self._swap_within_call, self.peers, self.rank)
        return self._auto

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> RingGroup:
        """The one for ``group``, or for the default group.

        Raises:
            ConfigurationError: torch.distributed is not initialised, ``group`` is no group, or this rank is not in it.
        """
        if not dist.is_initialized():
            raise ConfigurationError(
                "attention over several ranks needs torch.distributed: call "
                "torch.distributed.init_process_group() first, or start the program with torchrun"
            )
        resolved: Any = dist.group.WORLD if group is None else group
        outside = resolved is dist.GroupMember.NON_GROUP_MEMBER  # a number, for torch
        if not outside and not isinstance(resolved, dist.ProcessGroup):
            raise ConfigurationError(
                f"a group has to be a torch.distributed.ProcessGroup or None, got a {type(group).__name__}"
            )
        if outside or dist.get_rank(resolved) < 0:
            raise ConfigurationError(
                f"rank {dist.get_rank()} does not belong to the process group it was given: call attention on "
                "the ranks of a group only"
            )
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
            CommunicationError: A rank did not come, or failed.
        """
        if isinstance(report, CallSpec) and key is not None:
            known = self._agreed.get((key, report))
            if known and not (self._watch is not None and self._watch.knows_refusal(self)):
                return known
        elif isinstance(report, str) and self._agreed:
            # Ranks that call with a key would not listen.
            sentence = f"attention was refused: rank {self.names[self.rank]}: {report}"
            self._publish(sentence, call=self.call, refused=True)
        layout = self._agree(report, key)
        assert isinstance(report, CallSpec)  # a refusal has raised on all ranks
        self.open(channels, device)
        self._settled = True
        if key is not None:
            self._agreed[key, report] = layout
            if len(self._agreed) > _REMEMBERED:  # the oldest, which is the same on all ranks
                del self._agreed[next(iter(self._agreed))]
        return layout

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> list[dist.Work]:
        """Post transfers of an agreed call, receives first, and wait for none.

        Returns:
            What to wait for, for each receive and then for each send.
        """
        self.bytes_sent += sum(tensor.nbytes for _, tensor, _ in sends)
        if not (recvs or sends):
            return []
        # What batch_isend_irecv comes to, without its checks, which cost more than a short message.
        channels, own = self._channels, self.rank
        tag = self.call % TAGS * TAG_STEP  # a message is never taken for one of another call; NCCL has no tags
        try:
            if self._batches:  # of one channel: what works in order has no receives of others posted early
                batch = channels[(recvs or sends)[0].channel][0]
                batch._start_coalescing(self._device)
            works = [
                *(channels[name][peer > own].recv([tensor], peer, tag) for name, tensor, peer in recvs),
                *(channels[name][peer < own].send([tensor], peer, tag) for name, tensor, peer in sends),
            ]
            return [batch._end_coalescing(self._device)] * len(works) if self._batches else works
        except RuntimeError as error:
            raise Broken(str(error)) from error

    def all_gather(self, channel: str, outputs: Sequence[Tensor], own: Tensor) -> None:
        """Give every rank this rank's tensor and take theirs, all of one size."""
        self.bytes_sent += own.nbytes * len(outputs)
        every = [*outputs[: self.rank], torch.empty_like(own), *outputs[self.rank :]]
        self._collect(lambda: self._channels[channel][0].allgather([every], [own]), own.nbytes)

    def all_to_all(self, channel: str, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Give every other rank a tensor of its own and take one from each, of one dtype."""
        self.bytes_sent += sum(tensor.nbytes for tensor in inputs)
        there, back = ([tensor.view(-1) for tensor in tensors] for tensors in (inputs, outputs))
        going = torch.cat(there)
        coming = going.new_empty(sum(tensor.numel() for tensor in back))
        splits = [[tensor.numel() for tensor in tensors] for tensors in (back, there)]
        for sizes in splits:
            sizes.insert(self.rank, 0)
        self._collect(lambda: self._channels[channel][0].alltoall_base(coming, going, *splits), going.nbytes)
        for tensor, part in zip(back, torch.split(coming, [tensor.numel() for tensor in back]), strict=True):
            tensor.copy_(part)

    def _collect(self, begin: Callable[[], dist.Work], size: int) -> None:
        try:
            work = begin()
        except RuntimeError as error:
            raise Broken(str(error)) from error
        self.wait_for([work], size)

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each.

        Raises:
            Broken: One failed, or there is no end to wait for.
        """
        self.waiting = (works,)
        try:
            if size <= DIRECT or self._batches:  # on a GPU the device waits, not the host
                for work in works:
                    work.wait()
            else:
                self._waiter.call(lambda: [work.wait() for work in works], self._bound().total_seconds())
        except RuntimeError as error:
            raise Broken(str(error)) from error
        self.waiting = None

    def open(self, channels: tuple[Channel, ...], device: torch.device) -> None:
        """Create channels on all ranks together, as a schedule may give a rank nothing to do on one.

        On gloo a channel has a connection for each way between two ranks. A receive is announced to the sender, who
        waits for that; on a connection that carries data to him too the announcement would queue behind those, and
        what goes both ways would go one way after the other.

        Raises:
            CommunicationError: A rank did not come, or failed.
        """
        for channel in channels:
            if channel.value not in self._channels:
                self._make(f"channel {channel.value}", partial(self._open, channel, device))

    def _open(self, channel: Channel, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        up = down = self._new_group(channel.value)
        self._device, self._batches = device, up._get_backend(device).supports_coalescing
        self.in_order = self._batches
        if not self.in_order:
            down = self._new_group(f"{channel.value}-down")
        # NCCL builds a communicator at the first call, for which all ranks have to come.
        dist.barrier(up, device_ids=[device.index] if device.type == "cuda" else None)
        self._channels[channel.value] = up, down

    def _agree(self, report: CallSpec | str, key: Hashable | None) -> Layout:
        if self.world_size == 1:
            return agree([report])
        hint = (
            "; where a layout_key is known a rank does not compare its call: did the shapes change on some ranks only?"
        )
        self.agreeing = True
        if isinstance(report, CallSpec):
            facts = report.q_length, report.kv_length, int(report.ragged)
            found = self._round("attention", digest(report), facts, report, None, hint if key is not None else "")
        else:
            found = self._round("attention", 0, (0, 0, 0), report, report)
        self.agreeing = False
        if isinstance(found[0], Report):
            return agree([each.content for each in found], self.names)
        assert isinstance(report, CallSpec)
        q_lengths, kv_lengths, ragged = zip(*found, strict=True)
        if not same_lengths_where_needed(report, q_lengths, kv_lengths):
            each = zip(q_lengths, kv_lengths, strict=True)
            return agree([replace(report, q_length=queries, kv_length=keys) for queries, keys in each], self.names)
        return Layout(report, q_lengths, kv_lengths, any(ragged))

    def _on_gloo(self) -> list[dist.ProcessGroup]:
        return [] if self._batches else self._opened()

    def _abort(self) -> None:
        """End what is on NCCL, which was not run."""
        for group in self._opened():
            with suppress(RuntimeError, ValueError):  # another thread may have closed it
                if self._batches:  # whatever the backend was called when the world was made
                    dist.distributed_c10d._abort_process_group(group)

    def _close(self) -> None:
        for group in self._opened():
            try:
                # Destroying an NCCL group flushes it, which a transfer without a partner would block.
                end = dist.distributed_c10d._abort_process_group if self._batches else dist.destroy_process_group
                end(group)
            except (RuntimeError, ValueError):  # closing what is already broken
                log.debug("could not close a channel of rank %d", self.rank, exc_info=True)
        self._channels.clear()
        self.buffers.clear()  # transfers may have been left in it

    def _opened(self) -> list[dist.ProcessGroup]:
        """The groups of all channels, each once."""
        return list({id(group): group for ways in [*self._channels.values()] for group in ways}.values())


def clear_buffers() -> None:
    """Let go of the message buffers that all groups of this process keep; the next calls allocate their own."""
    for group in _groups.values():
        group.buffers.clear()


def group_of(group: dist.ProcessGroup | None) -> RingGroup:
    """:meth:`RingGroup.of`; a rank that has no group to call on tells so to all groups that wait for it.

    Raises:
        ConfigurationError: As there.
    """
    try:
        return RingGroup.of(group)
    except Exception as error:
        watch = Watch.known()
        if watch is not None:
            sentence = f"rank {watch.rank} called attention on no group of its own: {in_words(error)}"
            watch.give_up(sentence, range(dist.get_world_size()))
        raise


@contextmanager
def failing_together(group: RingGroup, doing: str) -> Iterator[None]:
    """Tell the other ranks of what only this one raises, between the calls that raise on all ranks alike."""
    try:
        yield
    except TokenRingError:
        raise  # told already
    except BaseException as error:
        if group.world_size > 1:
            group.fail(f"rank {group.names[group.rank]} failed {doing}: {in_words(error)}")
        raise
