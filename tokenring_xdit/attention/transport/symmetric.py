"""Programs over memory that the processes of a machine share (:mod:`.slots`): a rank looks itself whether it may go on.

What ranks say are numbers that only grow: of each rank how far it is (its clock), and of each route how many of its
messages have come. Both begin with the number of the call, so that ranks at different calls find out.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.transport.slots import Coming, Going, ReachedArea, SlotTransport
from tokenring_xdit.attention.waits import Broken, Ended, OutOfStep
from tokenring_xdit.schedule.lower.landing import Route

__all__ = ["SharedArea", "SymmetricTransport"]

_STEPS = 24
"""Bits of a clock that count steps of a call, and of a route's count that count messages; the rest is the call."""

_END = (1 << _STEPS) - 1
"""The step of a call that is over."""

_NAP = 0.05
"""Seconds after which a rank that sleeps looks at its limits again."""


class SharedArea(ReachedArea, Protocol):
    """Memory with numbers in it, and a bell for each rank: all that differs from one kind to another."""

    def clock(self, rank: int) -> int:
        """How far a rank has said to be."""

    def tell(self, clock: int, peers: Sequence[int]) -> None:
        """Say how far this rank is, and wake up those who may wait for it."""

    def came(self, source: int, channel: str) -> int:
        """What a rank has said that it has written here."""

    def arrive(self, peer: int, channel: str, count: int) -> None:
        """Say to a rank that so much of a channel has been written there, and wake it up."""

    def bell(self) -> int:
        """A number that changes whenever this rank is woken up."""

    def sleep(self, bell: int, seconds: float) -> None:
        """Sleep until somebody wakes this rank up, at most so long; not at all if the bell has another number."""

    def wake(self) -> None:
        """Wake up this rank, from another thread."""


@dataclass
class _Put:
    """A message that goes."""

    going: Going
    clock: int  # of the receiver, that it waits for
    count: int
    over: bool = False


@dataclass
class _Arrival:
    """A message that comes."""

    source: int
    channel: str
    count: int


class _Waitable:
    """A transfer that was posted."""

    def __init__(self, transport: SymmetricTransport, transfer: _Put | _Arrival) -> None:
        self._transport, self._transfer = transport, transfer

    def wait(self) -> None:
        """Wait until it is over."""
        self._transport.await_transfer(self._transfer)


class SymmetricTransport(SlotTransport):
    """Transfers that the rank carries out itself whenever it waits.

    Args:
        area: The memory.
        wait: Waits for transfers of at most that many bytes each, and can be ended.
        bound: For how many seconds at most.
    """

    in_order = False

    def __init__(
        self, area: SharedArea, wait: Callable[[Sequence[Handle], int], None], bound: Callable[[], float]
    ) -> None:
        super().__init__(area)
        self._area, self._wait, self._bound = area, wait, bound
        self._lock = threading.RLock()  # the threads that record a trace wait for transfers as well
        self._ended = False
        self._before = 0  # the call before this one
        self._clock = 0
        self._waiting: dict[Route, deque[_Put]] = defaultdict(deque)

    def end(self) -> None:
        """Say that nothing of this call comes any more, or is needed."""
        self._before = self.call
        self._tell(_END, [peer for peer in range(self.world_size) if peer != self.rank])

    def _grow(self, needed: int) -> None:
        super()._grow(needed)
        self._clock = 0
        self._before = 0  # all ranks have come here, so they have ended the call before

    def _exchange(self, coming: Sequence[Coming], going: Sequence[Going]) -> list[Handle]:
        with self._lock:
            latest = max((each.after for each in coming), default=0)
            if latest:
                self._tell(latest, [each.source for each in coming if each.after])
            arrivals = [_Arrival(each.source, each.channel, self._count(each.number)) for each in coming]
            puts = []
            for each in going:
                clock = (self.call << _STEPS) + each.after if each.after else self._free_since()
                puts.append(_Put(each, clock, self._count(each.number)))
                self._waiting[each.peer, each.channel].append(puts[-1])
            self._progress()
        transfers: list[_Put | _Arrival] = [*arrivals, *puts]
        return [_Waitable(self, transfer) for transfer in transfers]

    def _count(self, number: int) -> int:
        """What is said of a message that has come."""
        return (self.call << _STEPS) + number + 1

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers.

        Raises:
            Broken: There is no end to wait for.
        """
        self._wait(works, size)

    def _tell(self, step: int, peers: Sequence[int]) -> None:
        clock = (self.call << _STEPS) + step
        if clock > self._clock:
            self._clock = clock
            self._area.tell(clock, peers)

    def _free_since(self) -> int:
        """The clock of a rank that has ended the call before this one."""
        return (self._before << _STEPS) + _END if self._before else 0

    def _progress(self) -> None:
        """Write what may be written.

        Raises:
            Broken: A rank is in a later call, though it needs something of this one.
        """
        for (peer, channel), waiting in self._waiting.items():
            while waiting:
                clock = self._area.clock(peer)
                if clock >> _STEPS > self.call:
                    raise self._out_of_step(peer, clock)
                put = waiting[0]
                if clock < put.clock:
                    break
                self._area.copy(put.going.place, put.going.message)
                self._area.arrive(peer, channel, put.count)
                waiting.popleft()
                put.over = True

    def _is_over(self, transfer: _Put | _Arrival) -> bool:
        if isinstance(transfer, _Put):
            return transfer.over
        came = self._area.came(transfer.source, transfer.channel)
        if came >> _STEPS > self.call:
            raise self._out_of_step(transfer.source, came)
        return came >= transfer.count

    def _out_of_step(self, peer: int, number: int) -> Broken:
        return OutOfStep(
            f"rank {peer} of the group is at call {number >> _STEPS}, rank {self.rank} at call {self.call}"
        )

    def await_transfer(self, transfer: _Put | _Arrival) -> None:
        """Wait until a transfer is over; meanwhile write what may be written.

        Raises:
            Broken: It failed, was ended, or took too long.
        """
        end: float | None = None
        while True:
            bell = self._area.bell()  # before looking: signals from here on end the sleep
            with self._lock:
                self._progress()
                if self._is_over(transfer):
                    return
            now = time.monotonic()
            end = now + self._bound() if end is None else end
            if self._ended or now >= end:
                raise Ended
            self._area.sleep(bell, min(_NAP, end - now))

    # -- the end -----------------------------------------------------------------------------------------------------

    def gave_up(self, error: BaseException) -> bool:
        """Never: a processor looks itself, and knows for whom."""
        return False

    def abort(self) -> None:
        """End all waits, from another thread."""
        self._ended = True
        self._area.wake()

    def close(self) -> None:
        """Let the memory go, once nobody waits."""
        self._ended = True
        self._waiting.clear()
        super().close()
