"""A call of the executor that is recorded: the same program, with a look at the clock around every action."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.executor import Run
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.program import Fold, Join, Meet, Post, Receive, Send
from tokenring_xdit.attention.tracing import Trace, Unwatched, Watched, profiler_range
from tokenring_xdit.schedule import Activity, Channel, q_block

__all__ = ["TracedRun"]


class TracedRun(Run):
    """One call on one rank, recorded.

    Args:
        trace: Where to record.
        arguments: Those of :class:`Run`.
    """

    def __init__(self, trace: Trace, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._trace = trace
        self._announced: list[Receive | Send] = []

    def run(self, home_kv: tuple[Tensor, Tensor] | None, home_mask: KeyMask | None) -> tuple[Tensor, Tensor]:
        """Execute the program; after an error no thread is left that waits for its transfers."""
        name = self.verified.schedule.name
        if name not in self._trace.schedules:
            self._trace.schedules.append(name)
        try:
            if self._watches:
                for _, step, _ in self.program.steps:  # before the first transfer: threads take their time
                    if isinstance(step, Post):
                        for transfer in _transfers(step):
                            self._trace.lanes.open(self._lane(step.channel, transfer))
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

    def _lane(self, channel: Channel, transfer: Receive | Send) -> tuple[object, ...]:
        return self.group.peers[transfer.peer], channel.value, _activity(transfer).value, id(self.group)

    def _transfer(self, index: int, post: Post) -> None:
        self._announced = [t for t in _transfers(post) for _ in range(t.block.kind.messages)]
        super()._transfer(index, post)

    def _hand_over(
        self, channel: Channel, recvs: Sequence[tuple[Tensor, int]], sends: Sequence[tuple[Tensor, int]]
    ) -> list[dist.Work]:
        """What :meth:`RingGroup.post` does; its works are those of whole transfers, keys and values together."""
        with profiler_range(f"exchange {channel.value}"):
            start = self._trace.clock()
            works = super()._hand_over(channel, recvs, sends)
        posted = zip(self._announced, (tensor.nbytes for tensor, _ in (*recvs, *sends)), works, strict=True)
        watched: list[Watched | Unwatched] = []
        for transfer, group in groupby(posted, key=lambda entry: entry[0]):
            _, sizes, parts = zip(*group, strict=True)
            activity, block, peer = _activity(transfer), str(transfer.block), self.group.peers[transfer.peer]
            what = block if activity is Activity.RECEIVE else f"{block} sent"
            if self._watches:
                watched_transfer = Watched(self._trace, what, parts)
                job = partial(watched_transfer.finish, activity, block, start, channel.value, peer, sum(sizes))
                self._trace.lanes.put(self._lane(channel, transfer), job)
                watched += [watched_transfer] * len(parts)
            else:
                watched += [Unwatched(self._trace, what, part) for part in parts]
        return cast(list[dist.Work], watched)

    def _join(self, step: Join) -> None:
        with self._trace.doing(Activity.MERGE, step.what):
            super()._join(step)

    def _meet(self, step: Meet) -> None:
        with self._trace.doing(Activity.ATTEND, step.what):
            super()._meet(step)

    def _meet_home(self, home_kv: tuple[Tensor, Tensor], home_mask: KeyMask | None) -> None:
        with self._trace.doing(Activity.ATTEND, f"{q_block(self.rank)} to home keys"):
            super()._meet_home(home_kv, home_mask)

    def _fold(self, step: Fold) -> None:
        with self._trace.doing(Activity.MERGE, step.what):
            super()._fold(step)


def _transfers(post: Post) -> list[Receive | Send]:
    return [*post.receives, *post.sends]


def _activity(transfer: Receive | Send) -> Activity:
    return Activity.RECEIVE if isinstance(transfer, Receive) else Activity.SEND
