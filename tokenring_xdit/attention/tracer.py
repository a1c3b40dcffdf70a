"""Records calls of the executor: what it does and when, with a look at the clock around every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby

import torch

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.observe import Observer
from tokenring_xdit.attention.tracing import Trace, Unwatched, Watched, active_trace, profiler_range
from tokenring_xdit.attention.transport.base import Parcel
from tokenring_xdit.schedule import Activity
from tokenring_xdit.schedule.lower.program import Post, RankProgram, Recv, Send, Slot, SlotForm

__all__ = ["Tracer", "observer_of"]


def observer_of(ring_group: RingGroup, device: torch.device) -> Observer | None:
    """What a call of this thread is recorded by, if it is.

    Args:
        ring_group: The group of the call.
        device: Where its tensors are.
    """
    trace = active_trace()
    return None if trace is None else Tracer(trace, ring_group, device)


class Tracer:
    """Records one call on one rank.

    Args:
        trace: Where to record.
        group: The group of the call.
        device: Where its tensors are.
    """

    def __init__(self, trace: Trace, group: RingGroup, device: torch.device) -> None:
        self._trace, self._group, self._device = trace, group, device
        self._slots: tuple[Slot, ...] = ()

    @property
    def _watches(self) -> bool:
        """Whether the end of a transfer can be seen from the host."""
        return self._device.type == "cpu"

    def begins(self, name: str, program: RankProgram) -> None:
        """Note the schedule, and make ready the threads that wait for transfers: they take their time."""
        self._slots = program.slots
        if name not in self._trace.schedules:
            self._trace.schedules.append(name)
        if not self._watches:
            return
        for _, step in program.steps:
            if isinstance(step, Post) and step.collective is None:
                for transfer in step.transfers:
                    self._trace.lanes.open(self._lane(transfer))

    def doing(self, activity: Activity, what: object) -> AbstractContextManager[None]:
        """Record a computation."""
        return self._trace.doing(activity, str(what))

    def posting(
        self,
        post: Post,
        hand_over: Callable[[Sequence[Parcel], Sequence[Parcel]], Sequence[Handle]],
        recvs: Sequence[Parcel],
        sends: Sequence[Parcel],
    ) -> Sequence[Handle]:
        """Have transfers posted; the handles returned are those of whole transfers, keys and values together."""
        parcels = [*recvs, *sends]
        with profiler_range(str(post)):
            start = self._trace.clock()
            works = hand_over(recvs, sends)
        transfers = [t for t in post.transfers for _ in range(self._form(post, t).tensors)]
        posted = zip(transfers, (parcel.tensor.nbytes for parcel in parcels), works, strict=True)
        watched: list[Handle] = []
        for transfer, together in groupby(posted, key=lambda entry: entry[0]):
            _, sizes, parts = zip(*together, strict=True)
            activity, block, peer = _activity(transfer), str(transfer.block), self._group.peers[transfer.peer]
            what = block if activity is Activity.RECEIVE else f"{block} sent"
            if self._watches:
                whole = Watched(self._trace, what, parts)
                job = partial(whole.finish, activity, block, start, transfer.channel, peer, sum(sizes))
                self._trace.lanes.put(self._lane(transfer), job)
                watched += [whole] * len(parts)
            else:
                watched += [Unwatched(self._trace, what, part) for part in parts]
        return watched

    def failed(self) -> None:
        """Leave no thread that waits for transfers of the call."""
        if self._watches:
            self._group.break_off()
            self._trace.lanes.close()

    def _form(self, post: Post, transfer: Recv | Send) -> SlotForm:
        """What a transfer carries."""
        slot = transfer.slot if isinstance(transfer, Recv) else post.payloads[transfer.payload].slot
        return self._slots[slot].form

    def _lane(self, transfer: Recv | Send) -> tuple[object, ...]:
        return self._group.peers[transfer.peer], transfer.channel, _activity(transfer).value, id(self._group)


def _activity(transfer: Recv | Send) -> Activity:
    return Activity.RECEIVE if isinstance(transfer, Recv) else Activity.SEND
