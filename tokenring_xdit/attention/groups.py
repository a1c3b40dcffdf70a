"""Process groups with their channels: one communicator for each direction of traffic."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.attention.agreement import CallSpec, Layout, agree, digest, same_lengths_where_needed
from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.member import in_words
from tokenring_xdit.attention.rounds import Report, Rounds
from tokenring_xdit.attention.transport.choice import Standpoint, Wanted, why_not_shared
from tokenring_xdit.attention.transport.nccl import NcclTransport, agreed_ctas, ctas_beside_attention
from tokenring_xdit.attention.transport.over_memory import over_memory
from tokenring_xdit.attention.transport.process_groups import GlooTransport, ProcessGroupTransport, communicator
from tokenring_xdit.attention.transport.slots import SlotTransport
from tokenring_xdit.attention.waits import DIRECT, Broken
from tokenring_xdit.attention.watch import Watch
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule import Channel

__all__ = ["Channels", "RingGroup", "all_bytes_sent", "clear_buffers", "group_of"]

log = logging.getLogger(__name__)

_REMEMBERED = 1024
"""Agreements that a group remembers; prompts of a serving process bring a new mask each."""

_groups: dict[str, RingGroup] = {}

Channels = Sequence[tuple[Channel, bool]]
"""Channels, each with whether nothing is computed beside what it carries."""


def all_bytes_sent() -> int:
    """Payload bytes that this rank has handed over so far, in all groups that are there."""
    return sum(group.bytes_sent for group in _groups.values())


class RingGroup(Rounds):
    """What this package keeps for a process group.

    Attributes:
        transport: What carries the messages of programs, since they were made ready for.
        messages: What carries messages beside programs, once its channels are open; the same where no memory is shared.
        kept: What rooms above keep for this group, by its type.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.kept: dict[type, Any] = {}
        self._agreed: dict[tuple[Hashable, CallSpec], Layout] = {}
        rank, world_size = dist.get_rank(group), dist.get_world_size(group)
        self.messages: ProcessGroupTransport = GlooTransport(rank, world_size, torch.device("cpu"), self._wait)
        self.transport: ProcessGroupTransport | SlotTransport = self.messages
        self._memories: dict[torch.device, SlotTransport | None] = {}  # where the ranks have tried to share memory
        super().__init__(group)

    def begin(self) -> None:
        """Count a call of this rank, whatever becomes of it.

        Raises:
            CommunicationError: An earlier call on this group failed.
        """
        super().begin()
        self.messages.call = self.transport.call = self.call

    @property
    def bytes_sent(self) -> int:
        """Payload bytes that this rank has handed over so far."""
        return self.messages.bytes_sent + sum(each.bytes_sent for each in self._shared)

    @property
    def _shared(self) -> list[SlotTransport]:
        """Over memory that the ranks share."""
        return [each for each in self._memories.values() if each is not None]

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
            for name in [
                name for name, each in _groups.items() if each._group not in dist.distributed_c10d._world.pg_map
            ]:
                # Destroyed since: its buffers, and memory that its ranks share, go with it where no stream may use it.
                for memory in _groups.pop(name)._shared:
                    if memory.in_order:
                        memory.close()
            known = _groups[resolved.group_name] = cls(resolved)
        return known

    def settle_layout(
        self, report: CallSpec | str, channels: Channels, device: torch.device, key: Hashable | None
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
                self.make_ready(channels, device, report.transport)
                return known
        elif isinstance(report, str) and self._agreed:
            # Ranks that call with a key would not listen.
            sentence = f"attention was refused: rank {self.names[self.rank]}: {report}"
            self._publish(sentence, call=self.call, refused=True)
        layout = self._agree(report, key)
        assert isinstance(report, CallSpec)  # a refusal has raised on all ranks
        self.make_ready(channels, device, report.transport)
        self._settled = True
        if key is not None:
            self._agreed[key, report] = layout
            if len(self._agreed) > _REMEMBERED:  # the oldest, which is the same on all ranks
                del self._agreed[next(iter(self._agreed))]
        return layout

    def _wait(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each, until the watch ends that.

        Raises:
            Broken: There is no end to wait for.
            RuntimeError: From torch: one failed.
        """
        self.waiting = (works,)
        if size <= DIRECT or self.messages.in_order:  # on a GPU the device waits, not the host
            for work in works:
                work.wait()
        else:
            self._waiter.call(lambda: [work.wait() for work in works], self._bound().total_seconds())
        self.waiting = None

    def _seconds(self) -> float:
        return self._bound().total_seconds()

    def _wait_here(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers whose waits end by themselves once the watch says so.

        Raises:
            Broken: There is no end to wait for.
        """
        self.waiting = (works,)
        for work in works:
            work.wait()
        self.waiting = None

    def make_ready(self, channels: Channels, device: torch.device, asked: str) -> None:
        """Have what carries the programs of some schedules ready, on all ranks together.

        Args:
            channels: Those of the schedules.
            device: Where the tensors are.
            asked: What the ranks have agreed to ask for, a value of :class:`Wanted`.

        Raises:
            CommunicationError: A rank did not come, or failed.
        """
        symmetric = asked == Wanted.SYMMETRIC.value and self.world_size > 1
        if symmetric and device not in self._memories:
            self._memories[device] = self._share_memory(device)
        shared = self._memories[device] if symmetric else None
        if shared is not None:
            self.transport = shared
        else:
            self.open(channels, device)
            self.transport = self.messages
        self.transport.call = self.call  # which it has not been told of where another one was used before

    def _share_memory(self, device: torch.device) -> SlotTransport | None:
        """Memory that the ranks share; ``None``, and a line that says why, where they cannot."""
        own = Standpoint.own(self._watch.space if self._watch is not None else None, device)
        found = [Standpoint(*each) for each in self.swap_within_call(tuple(own))]
        why_not = why_not_shared(found, self.names)
        if why_not is None:
            try:
                swap, wait = self.swap_within_call, self._wait_here
                shared = over_memory(self._group, device, swap, wait, self._seconds, self.reach)
            except Broken as error:
                why_not = str(error)
            else:
                shared.call = self.call
                return shared
        if self.rank == 0:
            kind = "process groups" if device.type == "cpu" else "NCCL"
            log.warning("attention of ranks %s goes over %s, not over shared memory: %s", self.peers, kind, why_not)
        return None

    def open(self, channels: Channels, device: torch.device) -> None:
        """Create channels on all ranks together, as a schedule may give a rank nothing to do on one.

        Raises:
            AgreementError: On all ranks alike, where they are to have channels that differ.
            CommunicationError: A rank did not come, or failed.
        """
        on_gpus = device.type == "cuda"
        for channel, alone in channels:
            name = communicator(channel.value, alone=alone and on_gpus)
            if name not in self.messages:
                beside = on_gpus and not alone
                asked = self.swap_within_call(ctas_beside_attention()) if beside else [0]
                ctas = agreed_ctas(asked, self.names[: len(asked)])
                self._make(f"channel {name}", partial(self._open, name, device, ctas))

    def _open(self, name: str, device: torch.device, ctas: int | None) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        first = self._new_group(name, ctas=ctas)
        if not self.messages.groups:
            kind = NcclTransport if first._get_backend(device).supports_coalescing else GlooTransport
            self.messages = kind(self.rank, self.world_size, device, self._wait)
            self.messages.call = self.call
        self.messages.open(name, first, self._new_group)

    def _agree(self, report: CallSpec | str, key: Hashable | None) -> Layout:
        if self.world_size == 1:
            return agree([report])
        hint = (
            "; where a cache_key is known a rank does not compare its call: did the shapes change on some ranks only?"
        )
        self.agreeing = True
        if isinstance(report, CallSpec):
            facts = report.q_length, report.kv_length, int(report.ragged)
            found = self._round("attention", digest(report), facts, report, None, hint if key is not None else "")
        else:
            found = self._round("attention", 0, (0, 0, 0), None, report)
        self.agreeing = False
        if isinstance(found[0], Report):
            return agree([each.content or each.why_not or "" for each in found], self.names)
        assert isinstance(report, CallSpec)
        q_lengths, kv_lengths, ragged = zip(*found, strict=True)
        if not same_lengths_where_needed(report, q_lengths, kv_lengths):
            each = zip(q_lengths, kv_lengths, strict=True)
            return agree([replace(report, q_length=queries, kv_length=keys) for queries, keys in each], self.names)
        return Layout(report, q_lengths, kv_lengths, any(ragged))

    def _on_gloo(self) -> list[dist.ProcessGroup]:
        return [] if self.messages.in_order else self.messages.groups

    def _abort(self) -> None:
        self.messages.abort()
        for each in self._shared:
            each.abort()

    def _close(self) -> None:
        self.messages.close()
        for each in self._shared:
            each.close()


def clear_buffers() -> None:
    """Let go of the message buffers that all groups of this process keep; the next calls allocate their own.

    Memory that ranks share stays: they would have to let it go together.
    """
    for group in _groups.values():
        group.messages.buffers.clear()
        group.transport.buffers.clear()


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
