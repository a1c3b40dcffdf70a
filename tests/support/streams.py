"""GPUs of all ranks in this process: areas with signals, and streams of which a test chooses the one that goes on.

What a rank computes, and waits for in its current stream, is done by its own thread; each of its lanes is another one,
which does what it was asked for later. Everything may go on between any two writes, and in the middle of a message.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from tests.support.memory import Choose
from tests.support.reference import relative_error, softmax_attention
from tests.support.symmetric import Call, attended, shards_of, worst_of
from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.kernels import KERNELS
from tokenring_xdit.attention.transport import MemoryNetwork, MemoryTransport
from tokenring_xdit.attention.transport.slots import Coming, Going
from tokenring_xdit.attention.transport.streamed import StreamedTransport
from tokenring_xdit.schedule import Channel

_SPOILT = 0x7F

_NAMES = [channel.value for channel in Channel]


_Transport = TypeVar("_Transport", bound=StreamedTransport)


class TwinGpus:
    """The memory and the signals of all ranks, and what lanes are still to do.

    Args:
        ranks: How many.
        choose: Who goes on.
        lanes: How many streams there are for all channels of a rank.
    """

    def __init__(self, ranks: int, choose: Choose, lanes: int) -> None:
        self.ranks, self.lanes = ranks, lanes
        self.network = MemoryNetwork(ranks * (1 + lanes), choose)
        self.memories = [torch.empty(0, dtype=torch.uint8)] * ranks
        self.up: dict[tuple[int, int, int], bool] = defaultdict(bool)  # of who listens, who tells, and a number
        self.grown = 0
        self.asked: dict[int, deque[Callable[[], object] | None]] = defaultdict(deque)  # of each lane
        self.began: dict[int, int] = defaultdict(int)
        self.done: dict[int, int] = defaultdict(int)
        self._own = threading.local()

    def be(self, stream: int) -> None:
        """Say which stream this thread is."""
        self._own.stream = stream

    def until(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Let others go on, and this stream once that holds."""
        self.network.let_go_on(self._own.stream, ready)

    def lane(self, rank: int, channel: str) -> int:
        """The stream of a channel."""
        return self.ranks + rank * self.lanes + _NAMES.index(channel) % self.lanes

    def work(self, lane: int) -> None:
        """Do what a lane is asked for until it is told that nothing comes any more."""
        while True:
            self.until(lambda: bool(self.asked[lane]))
            operation = self.asked[lane].popleft()
            if operation is None:
                return
            self.began[lane] += 1
            operation()
            self.done[lane] += 1

    def over(self, rank: int) -> None:
        """Say that a rank asks for nothing any more."""
        for lane in range(self.ranks + rank * self.lanes, self.ranks + (rank + 1) * self.lanes):
            self.asked[lane].append(None)


class TwinSignals:
    """What one rank has of them."""

    numbers = 1000

    def __init__(self, gpus: TwinGpus, rank: int) -> None:
        self._gpus, self.rank, self.world_size, self.size = gpus, rank, gpus.ranks, 0

    def grow(self, size: int) -> None:
        """All ranks together."""
        gpus = self._gpus
        rounds = gpus.grown // self.world_size + 1
        gpus.memories[self.rank] = torch.full((size,), _SPOILT, dtype=torch.uint8)
        gpus.grown += 1
        gpus.until(lambda: gpus.grown >= rounds * self.world_size)
        self.size = size

    def memory(self, rank: int) -> Tensor:
        """The bytes of a rank's area."""
        return self._gpus.memories[rank]

    def copy(self, place: Tensor, message: Tensor) -> None:
        """In two halves."""
        half = message.numel() // 2
        place[:half].copy_(message[:half])
        self._gpus.until()
        place[half:].copy_(message[half:])
        self._gpus.until()

    def put_signal(self, peer: int, number: int, seconds: float) -> None:
        """Once it is down."""
        key = peer, self.rank, number
        self._gpus.until(lambda: not self._gpus.up[key])
        self._gpus.up[key] = True

    def wait_signal(self, peer: int, number: int, seconds: float) -> None:
        """Once it is up."""
        key = self.rank, peer, number
        self._gpus.until(lambda: self._gpus.up[key])
        self._gpus.up[key] = False

    def barrier(self, number: int, seconds: float) -> None:
        """As torch does: tell all, then hear from all."""
        others = [peer for peer in range(self.world_size) if peer != self.rank]
        for peer in others:
            self.put_signal(peer, number, seconds)
        for peer in others:
            self.wait_signal(peer, number, seconds)

    def keep(self) -> None:
        """Nothing is captured."""

    def close(self) -> None:
        """Nothing."""


class TwinMark:
    """A point of a lane."""

    def __init__(self, gpus: TwinGpus, lane: int) -> None:
        self._gpus, self._lane = gpus, lane
        self._after = gpus.began[lane] + len(gpus.asked[lane])

    def wait(self) -> None:
        """Until the lane has come there."""
        self._gpus.until(lambda: self._gpus.done[self._lane] >= self._after)


class TwinLanes:
    """The lanes of one rank."""

    def __init__(self, gpus: TwinGpus, rank: int, area: TwinSignals) -> None:
        self._gpus, self._rank, self._area = gpus, rank, area
        self._marks: list[TwinMark] = []

    def begin(self) -> None:
        """Nothing has failed."""

    def run(self, channel: str, operations: Sequence[Callable[[], object]]) -> TwinMark:
        """Have them done later: what was asked of the current stream before has been done."""
        lane = self._gpus.lane(self._rank, channel)
        self._gpus.asked[lane].extend(operations)
        self._marks.append(TwinMark(self._gpus, lane))
        self._gpus.until()
        return self._marks[-1]

    def end(self) -> None:
        """Wait for all of them; what the call has left is spoilt."""
        for mark in self._marks:
            mark.wait()
        self._marks.clear()
        self._area.memory(self._rank).fill_(_SPOILT)


def _transport(kind: type[_Transport], gpus: TwinGpus, rank: int, size: int) -> _Transport:
    area = TwinSignals(gpus, rank)
    area.grow(size)
    return kind(area, TwinLanes(gpus, rank, area), lambda: 1e6)


def errors(calls: Sequence[Call], choose: Choose, *, size: int = 64, lanes: int = len(_NAMES)) -> list[float]:
    """How far each of some calls, one after the other, is from softmax in fp64, of its scale.

    Args:
        calls: Of as many ranks each.
        choose: Who goes on.
        size: Bytes of the first areas.
        lanes: Streams of a rank beside the current one: as many as there are channels, or fewer that they share.
    """
    gpus = TwinGpus(calls[0].problem.ranks, choose, lanes)
    shards = shards_of(calls)

    def of_stream(turn: MemoryTransport) -> list[tuple[Tensor, Tensor]]:
        gpus.be(turn.rank)
        if turn.rank >= gpus.ranks:
            gpus.work(turn.rank)
            return []
        transport = _transport(StreamedTransport, gpus, turn.rank, size)
        try:
            return attended(transport, calls, shards)
        finally:
            gpus.over(turn.rank)

    found = gpus.network.run(of_stream)
    assert not any(gpus.up.values()), "a signal was told that nobody listens to"
    return worst_of(found[: gpus.ranks], shards)


def error_beside_a_failure(call: Call, choose: Choose) -> float:
    """How far rank 1 is from softmax in fp64 where rank 0, that has posted all it sends, fails in its kernel.

    What rank 0 has sent is spoilt as soon as it has given up, as where its memory is used for something else.

    Args:
        call: Of two ranks.
        choose: Who goes on.
    """
    gpus = TwinGpus(2, choose, len(_NAMES))
    shards = shards_of([call])

    def broken(*args: object, **options: object) -> tuple[Tensor, Tensor]:
        raise ZeroDivisionError

    def of_stream(turn: MemoryTransport) -> list[tuple[Tensor, Tensor]]:
        gpus.be(turn.rank)
        if turn.rank >= gpus.ranks:
            gpus.work(turn.rank)
            return []
        transport = _transport(_Noting, gpus, turn.rank, 1 << 16)
        try:
            return attended(transport, [call], shards, KERNELS["math"].run if turn.rank else broken)
        except ZeroDivisionError:
            transport.close()
            for message in transport.sent:
                message.fill_(_SPOILT)
            return []
        finally:
            gpus.over(turn.rank)

    ((out, _),) = gpus.network.run(of_stream)[1]
    (whole,) = shards
    expected = softmax_attention(whole.q, whole.k, whole.v)[0].split(call.problem.q_lengths, 2)[1]
    return relative_error(out, expected)


class _Noting(StreamedTransport):
    """Notes what is sent."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: list[Tensor] = []

    def _exchange(self, coming: Sequence[Coming], going: Sequence[Going]) -> list[Handle]:
        self.sent += [each.message for each in going]
        return super()._exchange(coming, going)
