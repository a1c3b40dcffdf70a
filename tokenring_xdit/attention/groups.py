"""Process groups, with what this package keeps for each: the calls that its ranks agreed on, and its transports."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.attention.agreement import CallSpec, Layout, agree, digest, same_lengths_where_needed
from tokenring_xdit.attention.member import in_words
from tokenring_xdit.attention.rounds import Report, Rounds
from tokenring_xdit.attention.transport.base import Transport
from tokenring_xdit.attention.transport.opening import Channels, GroupTransports
from tokenring_xdit.attention.watch import Watch
from tokenring_xdit.errors import ConfigurationError

__all__ = ["Channels", "RingGroup", "all_bytes_sent", "all_seconds_waited", "clear_buffers", "group_of"]

_REMEMBERED = 1024
"""Agreements that a group remembers; prompts of a serving process bring a new mask each."""

_groups: dict[str, RingGroup] = {}


def all_bytes_sent() -> int:
    """Payload bytes that this rank has handed over so far, in all groups that are there."""
    return sum(group.bytes_sent for group in _groups.values())


def all_seconds_waited() -> float | None:
    """Seconds that this rank has waited for messages of attention so far, in all groups of several ranks.

    ``None`` where there is no such group, and where streams of a GPU wait, which a host does not see.
    """
    shared = [group for group in _groups.values() if group.world_size > 1]
    if not shared or any(group.transports.streams_wait for group in shared):
        return None
    return sum(group.seconds_waited for group in shared)


class RingGroup(Rounds):
    """What this package keeps for a process group.

    Attributes:
        transports: What carries its messages.
        kept: What rooms above keep for this group, by its type.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.kept: dict[type, Any] = {}
        self._agreed: dict[tuple[Hashable, CallSpec], Layout] = {}
        self.transports = GroupTransports(self, dist.get_rank(group), dist.get_world_size(group))
        super().__init__(group)

    def begin(self) -> None:
        """Count a call of this rank, whatever becomes of it.

        Raises:
            CommunicationError: An earlier call on this group failed.
        """
        super().begin()
        self.transports.begin(self.call)

    @property
    def transport(self) -> Transport:
        """What carries the messages of programs, since they were made ready for."""
        return self.transports.current

    @property
    def messages(self) -> Transport:
        """What carries messages beside programs, once its channels are open."""
        return self.transports.messages

    @property
    def bytes_sent(self) -> int:
        """Payload bytes that this rank has handed over so far."""
        return self.transports.bytes_sent

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
        if known is None or known.process_group is not resolved:  # the name comes again after a re-initialisation
            for name in [
                name for name, each in _groups.items() if each.process_group not in dist.distributed_c10d._world.pg_map
            ]:
                _groups.pop(name).transports.forget()
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
                self.transports.make_ready(channels, device, report.transport)
                return known
        elif isinstance(report, str) and self._agreed:
            # Ranks that call with a key would not listen.
            sentence = f"attention was refused: rank {self.names[self.rank]}: {report}"
            self._publish(sentence, call=self.call, refused=True)
        layout = self._agree(report, key)
        assert isinstance(report, CallSpec)  # a refusal has raised on all ranks
        self.transports.make_ready(channels, device, report.transport)
        self._settled = True
        if key is not None:
            self._agreed[key, report] = layout
            if len(self._agreed) > _REMEMBERED:  # the oldest, which is the same on all ranks
                del self._agreed[next(iter(self._agreed))]
        return layout

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

    def _breakable(self) -> list[dist.ProcessGroup]:
        return self.transports.breakable

    def _abort(self) -> None:
        self.transports.abort()

    def _close(self) -> None:
        self.transports.close()


def clear_buffers() -> None:
    """Let go of the message buffers that all groups of this process keep; the next calls allocate their own.

    Memory that ranks share stays: they would have to let it go together.
    """
    for group in _groups.values():
        group.transports.clear_buffers()


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
