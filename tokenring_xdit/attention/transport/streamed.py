"""Programs over memory of GPUs that reach each other's (:mod:`.slots`): streams wait, the host does not.

Whatever is asked for is asked of a stream, so that a CUDA graph holds it too. What a rank computes is behind what it
waits for in the current stream; each channel has a lane, another stream, in which copy engines write messages and
signals are told. A lane goes on behind what was asked of the current stream before. Slots are used again as
:mod:`tokenring_xdit.schedule.lower.landing` proves, and signals as :mod:`tokenring_xdit.schedule.lower.signals` says.

A wait for a rank that does not come ends after the time that ranks wait for each other: the GPU then gives up
everything that it was asked for, so that nobody reads what was never written, and CUDA's next call raises.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
from tokenring_xdit.attention.transport.slots import Coming, Going, ReachedArea, SlotTransport
from tokenring_xdit.attention.waits import GaveUp
from tokenring_xdit.errors import CommunicationError
from tokenring_xdit.schedule.lower.landing import Landings
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.lower.signals import BARRIER, RoutedMessage, Signals, signals

__all__ = ["SignalArea", "StreamLanes", "StreamedTransport"]

_KEPT = 32


class SignalArea(ReachedArea, Protocol):
    """Memory with signals, each up or down, and streams that tell them and wait for them.

    Attributes:
        numbers: How many signals each rank has for each other one.
    """

    @property
    def numbers(self) -> int:
        """How many signals each rank has for each other one."""

    def put_signal(self, peer: int, number: int, seconds: float) -> None:
        """Put a signal of another rank up, once it is down; what was written before is seen by whoever sees it."""

    def wait_signal(self, peer: int, number: int, seconds: float) -> None:
        """Wait until that signal of another rank is up, and put it down."""

    def barrier(self, number: int, seconds: float) -> None:
        """Wait until all ranks are here."""

    def keep(self) -> None:
        """Have the memory of now outlive :meth:`grow`, where a graph that is captured uses it."""


class StreamLanes(Protocol):
    """A stream for each channel, beside the current one."""

    def begin(self) -> None:
        """Go on behind the call before, whose stream may have been another one.

        Raises:
            Broken: What was asked for earlier has failed.
        """

    def run(self, channel: str, operations: Sequence[Callable[[], object]]) -> Handle:
        """Have operations done in a lane, behind all that was asked of the current stream.

        Returns:
            What has the current stream wait for them.
        """

    def end(self) -> None:
        """Have the current stream wait for all lanes."""


class _Arriving:
    """A message that comes: whoever waits takes its signal down, so that is done once."""

    def __init__(self, listen: Callable[[], object]) -> None:
        self._listen: Callable[[], object] | None = listen

    def wait(self) -> None:
        """Have the current stream wait until it is here."""
        listen, self._listen = self._listen, None
        if listen is not None:
            listen()


class _Leaving:
    """A message that goes; its memory is not used for anything else before somebody has waited."""

    def __init__(self, lane: Handle, message: Tensor) -> None:
        self._lane, self._message = lane, message

    def wait(self) -> None:
        """Have the current stream wait until it is gone."""
        self._lane.wait()


class StreamedTransport(SlotTransport):
    """Transfers that streams carry out.

    Args:
        area: The memory.
        lanes: The streams.
        bound: For how many seconds to wait for a rank at most.
    """

    in_order = True

    def __init__(self, area: SignalArea, lanes: StreamLanes, bound: Callable[[], float]) -> None:
        super().__init__(area)
        self._area, self._lanes, self._bound = area, lanes, bound
        self._signals: Signals = signals(())
        self._numbered: OrderedDict[int, tuple[Landings, Signals]] = OrderedDict()
        self._seconds = 0.0

    def begin(self, name: str, programs: Sequence[RankProgram], dtype: torch.dtype, partial_dtype: torch.dtype) -> None:
        """Make ready for a call, and wait until all ranks have ended the one before: their slots are free then."""
        self._lanes.begin()
        super().begin(name, programs, dtype, partial_dtype)
        assert self._current is not None
        self._signals = self._numbers_of(self._current.found)
        if self._signals.numbers > self._area.numbers:  # the same on all ranks
            raise CommunicationError(
                f"schedule '{name}' needs {self._signals.numbers} signals between two ranks, and torch's symmetric "
                f"memory has {self._area.numbers}: ask for fewer chunks, or for {TRANSPORT_VARIABLE}=process-groups"
            )
        self._seconds = self._bound()
        self._area.keep()
        self._area.barrier(BARRIER, self._seconds)

    def _numbers_of(self, found: Landings) -> Signals:
        known = self._numbered.get(id(found))
        if known is None or known[0] is not found:
            known = self._numbered[id(found)] = found, signals(found)
            if len(self._numbered) > _KEPT:
                self._numbered.popitem(last=False)
        return known[1]

    def end(self) -> None:
        """Have what comes next wait for what still leaves; other ranks learn of it when the next call begins."""
        self._lanes.end()

    def _exchange(self, coming: Sequence[Coming], going: Sequence[Going]) -> list[Handle]:
        """Of one channel, as what works in order has no receives of others posted early."""
        area, own, numbers, seconds = self._area, self.rank, self._signals, self._seconds
        asked: list[Callable[[], object]] = []
        arriving: list[Handle] = []
        for each in coming:
            message = RoutedMessage(each.source, own, each.channel, each.number)
            if each.after:
                asked.append(partial(area.put_signal, each.source, numbers.free[message], seconds))
            arriving.append(_Arriving(partial(area.wait_signal, each.source, numbers.came[message], seconds)))
        for put in going:
            message = RoutedMessage(own, put.peer, put.channel, put.number)
            if put.after:
                asked.append(partial(area.wait_signal, put.peer, numbers.free[message], seconds))
            asked.append(partial(area.copy, put.place, put.message))
            asked.append(partial(area.put_signal, put.peer, numbers.came[message], seconds))
        if not asked:
            return arriving
        lane = self._lanes.run((coming or going)[0].channel, asked)
        return [*arriving, *(_Leaving(lane, put.message) for put in going)]

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Have the current stream wait for transfers.

        Raises:
            GaveUp: What was asked for has failed.
        """
        try:
            for work in works:
                work.wait()
        except RuntimeError as error:
            raise GaveUp(f"{error} (a GPU gives up where a rank does not come for {self._seconds:g} s)") from error

    def gave_up(self, error: BaseException) -> bool:
        """Whether an error may be of streams that have waited too long: CUDA says that a launch failed, and no more."""
        return isinstance(error, torch.AcceleratorError) and "launch failure" in str(error)

    def abort(self) -> None:
        """Nothing: streams that wait end by themselves; one that was ended early would go on with wrong numbers."""

    def close(self) -> None:
        """Let the memory go; what the caller frees afterwards is used again behind what still leaves."""
        with suppress(Exception):  # the GPU has given up, and nothing leaves any more
            self._lanes.end()
        super().close()
