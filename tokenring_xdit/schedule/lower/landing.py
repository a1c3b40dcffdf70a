"""Where messages land when their senders write them: for transports that put a block straight into its receiver's slot.

A receiver of such a transport does not take its messages in. So a sender has to know, before a call, where each of its
messages goes and when it may go there: both are worked out from the programs of all ranks, which all ranks have, and
:func:`prove_landings` proves them by themselves.

The memory of a program is one area a rank. A rank tells the others how far it is by one number: how many of its steps
have begun, which it raises where it would post a receive, once nothing needs the slot any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule.lower.program import RESULT, KernelCall, Post, RankProgram, SlotForm, reads, writes
from tokenring_xdit.schedule.problem import LSE_BYTES, Shape

__all__ = ["ByteRange", "Footprint", "Landing", "footprint", "landings", "partial_places", "prove_landings"]

_ALIGNMENT = 64
"""Bytes: a tensor of a slot starts at a multiple of this."""

_LSE_ALIGNMENT = 16
"""Bytes: the log-sum-exp behind a partial output starts at a multiple of this."""


class ByteRange(NamedTuple):
    """Bytes of an area.

    Attributes:
        first: The first.
        size: How many.
    """

    first: int
    size: int

    def overlaps(self, other: ByteRange) -> bool:
        """Whether some byte is in both."""
        return max(self.first, other.first) < min(self.first + self.size, other.first + other.size)


class Footprint(NamedTuple):
    """The memory of a program's slots.

    Attributes:
        places: Of each slot, where each of its tensors lies; none of the first three, which belong to the caller, of
            sums, and of what a kernel makes.
        size: Bytes of all of it.
    """

    places: tuple[tuple[ByteRange, ...], ...]
    size: int


class Landing(NamedTuple):
    """Where a message lands.

    Attributes:
        place: Where in the receiver's area.
        after: How many steps of the receiver have to have begun; 0: it may come once that has ended the call before.
    """

    place: ByteRange
    after: int


Route = tuple[int, str]
"""Source and channel."""

Landings = tuple[Mapping[Route, tuple[Landing, ...]], ...]
"""Of each receiver, of each route to it, its messages in order."""


def partial_places(shape: Shape, element_bytes: int) -> tuple[int, int, int]:
    """A partial output as a message, in bytes: where the output ends, where its log-sum-exp starts and ends.

    Args:
        shape: Shape of the output, ``[B, H, S, D]``.
        element_bytes: Bytes of an element of the output on its way.
    """
    batch, heads, tokens, head_dim = shape
    rows = batch * heads * tokens
    end = rows * head_dim * element_bytes
    offset = -(-end // _LSE_ALIGNMENT) * _LSE_ALIGNMENT
    return end, offset, offset + rows * LSE_BYTES


def footprint(program: RankProgram, element_bytes: int, partial_bytes: int) -> Footprint:
    """Lay the slots of a program out in one area.

    Args:
        program: The program.
        element_bytes: Bytes of an element of queries, keys and values.
        partial_bytes: Bytes of an element of a partial output on its way.
    """
    outputs = {step.output for _, step in program.steps if isinstance(step, KernelCall)}
    places: list[tuple[ByteRange, ...]] = []
    size = 0
    for number, slot in enumerate(program.slots):
        own: list[ByteRange] = []
        if number > RESULT and slot.form is not SlotForm.SUM and number not in outputs and slot.inside < 0:
            for tensor in _sizes(slot.form, slot.shape, element_bytes, partial_bytes):
                own.append(ByteRange(size, tensor))
                size += -(-tensor // _ALIGNMENT) * _ALIGNMENT
        places.append(tuple(own))
    for number, slot in enumerate(program.slots):
        if slot.inside >= 0:
            whole, tokens = program.slots[slot.inside].shape[2], slot.shape[2]
            places[number] = tuple(
                ByteRange(place.first + slot.first * (place.size // whole), tokens * (place.size // whole))
                for place in places[slot.inside]
            )
    return Footprint(tuple(places), size)


def _sizes(form: SlotForm, shape: Shape, element_bytes: int, partial_bytes: int) -> list[int]:
    """Bytes of each tensor of a slot."""
    batch, heads, tokens, head_dim = shape
    rows = batch * heads * tokens
    if form is SlotForm.PARTIAL:
        return [partial_places(shape, partial_bytes)[2]]
    if form is SlotForm.OUTPUT:
        return [rows * head_dim * partial_bytes, rows * LSE_BYTES]
    return [rows * head_dim * element_bytes] * form.tensors


def landings(programs: Sequence[RankProgram], footprints: Sequence[Footprint]) -> Landings:
    """Where every message of a call lands, and when it may.

    A slot that nothing has used yet in the call is free from its beginning: its message waits for no more than the end
    of the call before. Any other is free where its receive would be posted.

    Args:
        programs: Programs of all ranks, proved.
        footprints: Their memory.
    """
    found = []
    for program, memory in zip(programs, footprints, strict=True):
        of_route: dict[Route, list[Landing]] = defaultdict(list)
        used: list[ByteRange] = []
        for at, (_, step) in enumerate(program.steps):
            if isinstance(step, Post):
                for recv in step.recvs:
                    for place in memory.places[recv.slot]:
                        again = any(place.overlaps(earlier) for earlier in used)
                        of_route[recv.peer, recv.channel].append(Landing(place, at + 1 if again else 0))
            used += {place for slot in (*reads(step), *writes(step)) for place in memory.places[slot]}
        found.append({route: tuple(messages) for route, messages in of_route.items()})
    return tuple(found)


def prove_landings(
    name: str, programs: Sequence[RankProgram], footprints: Sequence[Footprint], found: Landings
) -> None:
    """Refuse landings by which a message could be written over what is needed, or elsewhere than it is read.

    Of programs that :func:`~tokenring_xdit.schedule.lower.prove` has accepted. What is proved of each message: it lands
    where the program reads it, inside the area and apart from all other slots; and from the moment from which it may be
    written until its receive, no step of the receiver touches a byte of it. What a call leaves nobody reads, and a rank
    says that it has ended a call when nothing comes or leaves any more: so the first moment of a call is safe too. And
    it waits for nothing but the step of its own receive, up to which ``prove`` has seen that every rank gets.

    Args:
        name: What to call the programs.
        programs: Programs of all ranks.
        footprints: Their memory.
        found: The landings.

    Raises:
        VerificationError: Naming the rank and the action at fault.
    """
    for rank, (program, memory) in enumerate(zip(programs, footprints, strict=True)):
        _refuse_overlaps(name, rank, program, memory)
        left = {route: list(messages) for route, messages in found[rank].items()}
        for at, (index, step) in enumerate(program.steps):
            for recv in step.recvs if isinstance(step, Post) else ():
                messages = left.get((recv.peer, recv.channel), [])
                for place in memory.places[recv.slot]:
                    landing = messages.pop(0) if messages else None
                    if landing is None or landing.place != place:
                        raise _fault(name, rank, index, f"reads {recv} elsewhere than it lands")
                    if landing.after not in (0, at + 1):
                        raise _fault(name, rank, index, f"lets {recv} come at a step that is not its own")
                    first = at if landing.after else 0
                    if any(_touches(other, memory, place) for _, other in program.steps[first:at]):
                        raise _fault(name, rank, index, f"lets {recv} come while its slot is in use")
        if any(left.values()):
            raise _fault(name, rank, None, "is sent what it never receives")


def _touches(step: object, memory: Footprint, place: ByteRange) -> bool:
    """Whether a step reads or writes a byte of a place."""
    slots = (*reads(step), *writes(step))  # type: ignore[arg-type]
    return any(place.overlaps(other) for slot in slots for other in memory.places[slot])


def _refuse_overlaps(name: str, rank: int, program: RankProgram, memory: Footprint) -> None:
    """Refuse slots that lie in each other and should not, or outside of the area."""
    alone = sorted(
        place for slot, places in zip(program.slots, memory.places, strict=True) if slot.inside < 0 for place in places
    )
    ends = [0, *(place.first + place.size for place in alone)]
    if any(place.first < end for place, end in zip(alone, ends, strict=False)) or max(ends) > memory.size:
        raise _fault(name, rank, None, "lays slots over each other, or outside of its area")
    for slot, places in zip(program.slots, memory.places, strict=True):
        whole = memory.places[slot.inside] if slot.inside >= 0 else places
        for place, room in zip(places, whole, strict=True):
            if not (room.first <= place.first and place.first + place.size <= room.first + room.size):
                raise _fault(name, rank, None, "lays a slot outside of the one that it is a part of")


def _fault(name: str, rank: int, index: int | None, problem: str) -> VerificationError:
    return VerificationError(name, rank, index, f"{problem}, once laid out in areas")
