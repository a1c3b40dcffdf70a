"""Blocks written straight into the slots of their receivers: what is the same for every memory that ranks reach.

Every rank owns an area, in which the slots of a program lie where all ranks know them to be
(:mod:`tokenring_xdit.schedule.lower.landing`). A sender waits until the receiver says that the slot is free, writes,
and says that the message is there; the receiver does nothing but look. Who waits, and how it is said, differs: a
processor looks itself (:mod:`.symmetric`), a GPU has its streams wait (:mod:`.streamed`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Buffers, Handle, outlasting
from tokenring_xdit.attention.transport.base import Parcel, with_own
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
from tokenring_xdit.attention.waits import Broken
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

__all__ = ["Coming", "Going", "ReachedArea", "SlotTransport"]

_KEPT = 32
"""Programs whose landings are remembered."""


class ReachedArea(Protocol):
    """Memory that all ranks of a group can reach.

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
        """Write a message, bytes, into a rank's area; a rank that sees a later signal sees the message too."""

    def close(self) -> None:
        """Let the memory go."""


class Coming(NamedTuple):
    """A message that comes.

    Attributes:
        source: From which rank.
        channel: Its channel.
        number: Which message of its route it is in this call, from 0.
        after: The step of this rank at which its slot is free; 0: it was from the beginning of the call.
    """

    source: int
    channel: str
    number: int
    after: int


class Going(NamedTuple):
    """A message that goes.

    Attributes:
        peer: To which rank.
        channel: Its channel.
        number: Which message of its route it is in this call, from 0.
        after: The step of the receiver at which its slot is free, as in :class:`Coming`.
        message: Its bytes.
        place: Where they go.
    """

    peer: int
    channel: str
    number: int
    after: int
    message: Tensor
    place: Tensor


@dataclass
class Known:
    """What is known of a call's programs.

    Attributes:
        programs: The programs, kept so that no others have their number.
        footprints: Their memory.
        found: Where messages land.
        places: Places of each route from here, memory of the receiver for each message.
    """

    programs: Sequence[RankProgram]
    footprints: Sequence[Footprint]
    found: Landings
    places: dict[tuple[int, str], list[tuple[Landing, Tensor]]]


class SlotTransport(ABC):
    """Writes messages into the slots of their receivers; see the module.

    Args:
        area: The memory; it is made anew whenever it is too small, at least twice as large.

    Attributes:
        call: Number of the call, the same on all ranks.
        bytes_sent: Payload bytes that this rank has handed over so far.
    """

    in_order: bool

    def __init__(self, area: ReachedArea) -> None:
        self.rank, self.world_size = area.rank, area.world_size
        self.buffers = Buffers()
        self.buffers.area = area.memory(area.rank)
        self.call = self.bytes_sent = 0
        self._memory = area
        self._known: OrderedDict[tuple[int, int, int], Known] = OrderedDict()
        self._current: Known | None = None
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
            known = Known(programs, memory, found, {})
        needed = max(each.size for each in known.footprints)
        if needed > self._memory.size:
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

    @abstractmethod
    def end(self) -> None:
        """Say that nothing of this call comes any more, or is needed."""

    def _grow(self, needed: int) -> None:
        """Larger areas: all ranks come to this in the same call, as each of them knows what all need."""
        self.buffers.clear()
        for known in self._known.values():
            known.places.clear()
        try:
            self._memory.grow(max(needed, 2 * self._memory.size))
        except Broken as error:
            raise CommunicationError(f"{error}; {TRANSPORT_VARIABLE}=process-groups does without it") from error
        self.buffers.area = self._memory.memory(self.rank)

    def _places_of(self, found: Landings) -> dict[tuple[int, str], list[tuple[Landing, Tensor]]]:
        places = {}
        for peer, of_peer in enumerate(found):
            memory = self._memory.memory(peer)
            for (source, channel), messages in of_peer.items():
                if source == self.rank:
                    places[peer, channel] = [
                        (m, memory[m.place.first : m.place.first + m.place.size]) for m in messages
                    ]
        return places

    # -- transfers ---------------------------------------------------------------------------------------------------

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> Sequence[Handle]:
        """Say which slots are free, and write what may be written, now or later."""
        coming = [self._coming(parcel.peer, parcel.channel) for parcel in recvs]
        return self._exchange(coming, [self._going(parcel.peer, parcel.channel, parcel.tensor) for parcel in sends])

    def all_gather(self, channel: str, coming: Tensor, own: Tensor) -> None:
        """Write this rank's tensor into every other one's memory, and wait for theirs."""
        transfers = self._with_all(channel, [own] * self.world_size)
        first = self.rank * own.shape[0]
        coming[first : first + own.shape[0]].copy_(own)
        self.wait_for(transfers, own.nbytes)

    def all_to_all(self, channel: str, coming: Tensor, going: Tensor, rows: Sequence[int], sent: Sequence[int]) -> None:
        """Write some rows into every other rank's memory, and wait for theirs."""
        transfers = self._with_all(channel, torch.split(going, with_own(sent, self.rank, going)))
        self.wait_for(transfers, going.nbytes)

    def _with_all(self, channel: str, parts: Sequence[Tensor]) -> Sequence[Handle]:
        # Each begins with another one, so that not all write to the same rank first.
        peers = [(self.rank + step) % self.world_size for step in range(1, self.world_size)]
        coming = [self._coming(peer, channel) for peer in peers]
        return self._exchange(coming, [self._going(peer, channel, parts[peer]) for peer in peers])

    @abstractmethod
    def _exchange(self, coming: Sequence[Coming], going: Sequence[Going]) -> Sequence[Handle]:
        """Post transfers of a channel, or of several, and wait for none.

        Returns:
            What to wait for, for each that comes and then for each that goes.
        """

    @abstractmethod
    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each.

        Raises:
            Broken: There is no end to wait for.
        """

    @abstractmethod
    def gave_up(self, error: BaseException) -> bool:
        """Whether an error may be of a device that has waited too long for a rank, and says no more than that."""

    def _coming(self, source: int, channel: str) -> Coming:
        """The next message of a route to here."""
        assert self._current is not None
        number = self._expected[source, channel]
        self._expected[source, channel] = number + 1
        return Coming(source, channel, number, self._current.found[self.rank][source, channel][number].after)

    def _going(self, peer: int, channel: str, tensor: Tensor) -> Going:
        """The next message of a route from here."""
        assert self._current is not None
        number = self._posted[peer, channel]
        self._posted[peer, channel] = number + 1
        landing, place = self._current.places[peer, channel][number]
        if tensor.nbytes != landing.place.size:
            raise Broken(f"rank {self.rank} sends {tensor.nbytes} bytes where {landing.place.size} are expected")
        self.bytes_sent += tensor.nbytes
        return Going(peer, channel, number, landing.after, tensor.view(-1).view(torch.uint8), place)

    # -- the end -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def abort(self) -> None:
        """End what can be ended, from another thread."""

    def close(self) -> None:
        """Let the memory go, once nobody waits."""
        self.buffers.clear()
        self.buffers.area = None
        self._known.clear()
        self._current = None
        self._memory.close()
