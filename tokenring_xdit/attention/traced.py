"""A call of the executor that is recorded: the same program, with a look at the clock around every action."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, cast

import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.executor import Run
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.tracing import Trace, Unwatched, Watched, profiler_range
from tokenring_xdit.schedule import Activity, Attend, Block, Channel, Exchange, Transfer, q_block

__all__ = ["TracedRun"]


class _Message(NamedTuple):
    """Part of a transfer that is about to be posted."""

    activity: Activity
    block: Block
    peer: int


class TracedRun(Run):
    """One call on one rank, recorded.

    Args:
        trace: Where to record.
        arguments: Those of :class:`Run`.
    """

    def __init__(self, trace: Trace, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._trace = trace
        self._announced: list[_Message] = []

    def run(self, home_kv: tuple[Tensor, Tensor] | None, home_mask: KeyMask | None) -> tuple[Tensor, Tensor]:
        """Execute the program; after an error no thread is left that waits for its transfers."""
        if self.schedule.name not in self._trace.schedules:
            self._trace.schedules.append(self.schedule.name)
        try:
            if self._watches:
                for action in self.schedule.programs[self.rank]:  # before the first transfer: threads take their time
                    if isinstance(action, Exchange):
                        for message in _messages(action.recvs, action.sends):
                            self._trace.lanes.open(self._lane(action.channel, message))
            return super().run(home_kv, home_mask)
        except BaseException:
            if self._watches:
                self.group.break_off()
                self._trace.lanes.close()
            raise

    @property
    def _watches(self) -> bool:
        """Whether the end of a transfer can be seen from the host."""
        return self.device.type == "cpu"

    def _lane(self, channel: Channel, message: _Message) -> tuple[object, ...]:
        return self.group.peers[message.peer], channel.value, message.activity.value, id(self.group)

    def _transfer(self, channel: Channel, recvs: Sequence[Transfer], sends: Sequence[Transfer]) -> None:
        self._announced = [
            message
            for message in _messages(recvs, sends)
            for shape, _ in self.messages.shapes(message.block)
            if math.prod(shape)
        ]
        super()._transfer(channel, recvs, sends)

    def _hand_over(
        self, channel: Channel, recvs: Sequence[tuple[Tensor, int]], sends: Sequence[tuple[Tensor, int]]
    ) -> list[dist.Work]:
        """What :meth:`RingGroup.post` does; its works are those of whole transfers, keys and values together."""
        with profiler_range(f"exchange {channel.value}"):
            start = self._trace.clock()
            works = super()._hand_over(channel, recvs, sends)
        posted = zip(self._announced, (tensor.nbytes for tensor, _ in (*recvs, *sends)), works, strict=True)
        watched: list[Watched | Unwatched] = []
        for message, group in groupby(posted, key=lambda entry: entry[0]):
            _, sizes, parts = zip(*group, strict=True)
            block, peer = str(message.block), self.group.peers[message.peer]
            what = block if message.activity is Activity.RECEIVE else f"{block} sent"
            if self._watches:
                transfer = Watched(self._trace, what, parts)
                job = partial(transfer.finish, message.activity, block, start, channel.value, peer, sum(sizes))
                self._trace.lanes.put(self._lane(channel, message), job)
                watched += [transfer] * len(parts)
            else:
                watched += [Unwatched(self._trace, what, part) for part in parts]
        return cast(list[dist.Work], watched)

    def _attend(self, action: Attend) -> None:
        with self._trace.doing(Activity.ATTEND, f"{action.q} to {action.kv}"):
            super()._attend(action)

    def _meet_home(self, home_kv: tuple[Tensor, Tensor], home_mask: KeyMask | None) -> None:
        with self._trace.doing(Activity.ATTEND, f"{q_block(self.rank)} to home keys"):
            super()._meet_home(home_kv, home_mask)

    def _merge(self, block: Block) -> None:
        with self._trace.doing(Activity.MERGE, str(block)):
            super()._merge(block)


def _messages(recvs: Sequence[Transfer], sends: Sequence[Transfer]) -> list[_Message]:
    return [
        *(_Message(Activity.RECEIVE, t.block, t.peer) for t in recvs),
        *(_Message(Activity.SEND, t.block, t.peer) for t in sends),
    ]
