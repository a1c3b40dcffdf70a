"""Blocks written straight into the slots of their receivers: programs over memory that all ranks of a group can reach.

Every rank owns an area, in which the slots of a program lie where all ranks know them to be
(:mod:`tokenring_xdit.schedule.lower.landing`). A sender waits until the receiver says that the slot is free, writes,
and says that the message is there; the receiver does nothing but look. What they say are numbers that only grow: of
each rank how far it is (its clock), and of each route how many of its messages have come. Both begin with the number of
the call, so that ranks at different calls find out.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Buffers, Handle, outlasting
from tokenring_xdit.attention.transport.base import Parcel, with_own
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
from tokenring_xdit.attention.waits import Broken, Ended, OutOfStep
from tokenring_xdit.errors import CommunicationError
from tokenring_xdit.schedule.lower.landing import (
    Footprint,
    Landing,
    Landings,
    Route,
    footprint,
    landings,
    prove_landings,
)
from tokenring_xdit.schedule.lower.program import RankProgram

__all__ = ["SharedArea", "SymmetricTransport"]

_STEPS = 24
"""Bits of a clock that count steps of a call, and of a route's count that count messages; the rest is the call."""

_END = (1 << _STEPS) - 1
"""The step of a call that is over."""

_NAP = 0.05
"""Seconds after which a rank that sleeps looks at its limits again."""

_KEPT = 32
"""Programs whose landings are remembered."""


class SharedArea(Protocol):
    """Memory that all ranks of a group can reach, and numbers in it: all that differs from one kind to another.

    Attributes:
        rank: This rank.
        world_size: Ranks of the group.
        size: Bytes of the area of each rank.
    """

    rank: int
    world_size: int
    size: int

    def grow(self, size: int) -> None:
        """Make larger areas in place of those that there are, on all ranks together.

        Raises:
            Broken: Some rank could not.
        """

    def memory(self, rank: int) -> Tensor:
        """The bytes of a rank's area."""

    def copy(self, place: Tensor, message: Tensor) -> None:
        """Write a message, bytes, into a rank's area; whoever sees a number told after that sees the message."""

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

    def close(self) -> None:
        """Let the memory go."""


@dataclass
class _Put:
    """A message that goes."""

    peer: int
    channel: str
    message: Tensor
    place: Tensor
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


@dataclass
class _Known:
    """What is known of a call's programs.

    Attributes:
        programs: The programs, kept so that no others have their number.
        footprints: Their memory.
        found: Where messages land.
        places: Of each route from here, memory of the receiver for each message.
    """

    programs: Sequence[RankProgram]
    footprints: Sequence[Footprint]
    found: Landings
    places: dict[tuple[int, str], list[tuple[Landing, Tensor]]]


class SymmetricTransport:
    """Writes messages into the slots of their receivers; see the module.

    Args:
        area: The memory; it is made anew whenever it is too small, at least twice as large.
        wait: Waits for transfers of at most that many bytes each, and can be ended.
        bound: For how many seconds at most.

    Attributes:
        call: Number of the call, the same on all ranks.
        bytes_sent: Payload bytes that this rank has handed over so far.
    """

    in_order = False

    def __init__(
        self, area: SharedArea, wait: Callable[[Sequence[Handle], int], None], bound: Callable[[], float]
    ) -> None:
        self.rank, self.world_size = area.rank, area.world_size
        self.buffers = Buffers()
        self.buffers.area = area.memory(area.rank)
        self.call = self.bytes_sent = 0
        self._area, self._wait, self._bound = area, wait, bound
        self._lock = threading.RLock()  # the threads that record a trace wait for transfers as well
        self._ended = False
        self._before = 0  # the call before this one
        self._clock = 0
        self._known: OrderedDict[tuple[int, int, int], _Known] = OrderedDict()
        self._current: _Known | None = None
        self._going: dict[Route, deque[_Put]] = defaultdict(deque)
        self._posted: dict[Route, int] = defaultdict(int)  # messages of the call, of each route from here
        self._expected: dict[Route, int] = defaultdict(int)  # and to here

    # -- a call ------------------------------------------------------------------------------------------------------

    def begin(self, name: str, programs: Sequence[RankProgram], dtype: torch.dtype, partial_dtype: torch.dtype) -> None:
        """Make ready for a call, of which all ranks know the programs, and so how large their areas have to be."""
        key = id(programs), dtype.itemsize, partial_dtype.itemsize
        known = self._known.get(key)
        if known is None or known.programs is not programs:
            memory = [footprint(program, dtype.itemsize, partial_dtype.itemsize) for program in programs]
            found = landings(programs, memory)
            prove_landings(name, programs, memory, found)
            known = _Known(programs, memory, found, {})
        needed = max(each.size for each in known.footprints)
        if needed > self._area.size:
            self._grow(needed)
        if not known.places:
            with outlasting():
                known.places = self._places_of(known.found)
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        self._current = known
        self._posted.clear()
        self._expected.clear()

    def end(self) -> None:
        """Say that nothing of this call comes any more, or is needed."""
        self._before = self.call
        self._tell(_END, [peer for peer in range(self.world_size) if peer != self.rank])

    def _grow(self, needed: int) -> None:
        """Larger areas: all ranks come to this in the same call, as each of them knows what all need."""
        self.buffers.clear()
        for known in self._known.values():
            known.places.clear()
        try:
            self._area.grow(max(needed, 2 * self._area.size))
        except Broken as error:
            raise CommunicationError(f"{error}; {TRANSPORT_VARIABLE}=process-groups does without it") from error
        self.buffers.area = self._area.memory(self.rank)
        self._clock = 0
        self._before = 0  # all ranks have come here, so they have ended the call before

    def _places_of(self, found: Landings) -> dict[tuple[int, str], list[tuple[Landing, Tensor]]]:
        places = {}
        for peer, of_peer in enumerate(found):
            memory = self._area.memory(peer)
            for (source, channel), messages in of_peer.items():
                if source == self.rank:
                    places[peer, channel] = [
                        (m, memory[m.place.first : m.place.first + m.place.size]) for m in messages
                    ]
        return places

    # -- transfers ---------------------------------------------------------------------------------------------------

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> Sequence[Handle]:
        """Say which slots are free, write what may be written, and keep the rest for later."""
        with self._lock:
            arrivals = self._expect([(parcel.peer, parcel.channel) for parcel in recvs])
            puts = [self._put(parcel.peer, parcel.channel, parcel.tensor) for parcel in sends]
            self._progress()
        transfers: list[_Put | _Arrival] = [*arrivals, *puts]
        return [_Waitable(self, transfer) for transfer in transfers]

    def all_gather(self, channel: str, coming: Tensor, own: Tensor) -> None:
        """Write this rank's tensor into every other one's memory, and wait for theirs."""
        with self._lock:
            transfers = self._with_all(channel, [own] * self.world_size)
        first = self.rank * own.shape[0]
        coming[first : first + own.shape[0]].copy_(own)
        self.wait_for(transfers, own.nbytes)

    def all_to_all(self, channel: str, coming: Tensor, going: Tensor, rows: Sequence[int], sent: Sequence[int]) -> None:
        """Write some rows into every other rank's memory, and wait for theirs."""
        with self._lock:
            transfers = self._with_all(channel, torch.split(going, with_own(sent, self.rank, going)))
        self.wait_for(transfers, going.nbytes)

    def _with_all(self, channel: str, parts: Sequence[Tensor]) -> list[Handle]:
        peers = [peer for peer in range(self.world_size) if peer != self.rank]
        arrivals = self._expect([(peer, channel) for peer in peers])
        puts = [self._put(peer, channel, parts[peer]) for peer in peers]
        self._progress()
        transfers: list[_Put | _Arrival] = [*arrivals, *puts]
        return [_Waitable(self, transfer) for transfer in transfers]

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers.

        Raises:
            Broken: There is no end to wait for.
        """
        self._wait(works, size)

    def _expect(self, routes: Sequence[Route]) -> list[_Arrival]:
        """Messages that come, of whose slots all others are told that they are free."""
        assert self._current is not None
        found, latest, waiting = [], 0, []
        for route in routes:
            number = self._expected[route]
            self._expected[route] = number + 1
            after = self._current.found[self.rank][route][number].after
            if after:
                latest = max(latest, after)
                waiting.append(route[0])
            found.append(_Arrival(*route, (self.call << _STEPS) + number + 1))
        if waiting:
            self._tell(latest, waiting)
        return found

    def _tell(self, step: int, peers: Sequence[int]) -> None:
        clock = (self.call << _STEPS) + step
        if clock > self._clock:
            self._clock = clock
            self._area.tell(clock, peers)

    def _put(self, peer: int, channel: str, tensor: Tensor) -> _Put:
        """A message that goes, behind all others of its route."""
        assert self._current is not None
        number = self._posted[peer, channel]
        self._posted[peer, channel] = number + 1
        landing, place = self._current.places[peer, channel][number]
        if tensor.nbytes != landing.place.size:
            raise Broken(f"rank {self.rank} sends {tensor.nbytes} bytes where {landing.place.size} are expected")
        self.bytes_sent += tensor.nbytes
        clock = (self.call << _STEPS) + landing.after if landing.after else self._free_since()
        put = _Put(peer, channel, tensor.view(-1).view(torch.uint8), place, clock, (self.call << _STEPS) + number + 1)
        self._going[peer, channel].append(put)
        return put

    def _free_since(self) -> int:
        """The clock of a rank that has ended the call before this one."""
        return (self._before << _STEPS) + _END if self._before else 0

    def _progress(self) -> None:
        """Write what may be written.

        Raises:
            Broken: A rank is in a later call, though it needs something of this one.
        """
        for (peer, channel), waiting in self._going.items():
            while waiting:
                clock = self._area.clock(peer)
                if clock >> _STEPS > self.call:
                    raise self._out_of_step(peer, clock)
                put = waiting[0]
                if clock < put.clock:
                    break
                self._area.copy(put.place, put.message)
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
            bell = self._area.bell()  # before looking: what is told from here on is not slept through
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

    def abort(self) -> None:
        """End all waits, from another thread."""
        self._ended = True
        self._area.wake()

    def close(self) -> None:
        """Let the memory go, once nobody waits."""
        self._ended = True
        self.buffers.clear()
        self.buffers.area = None
        self._known.clear()
        self._current = None
        self._going.clear()
        self._area.close()
