"""All ranks in one process, in an order that is chosen: for tests, which so try more orders than processes show.

One rank runs at a time, until it posts or has to wait. Then somebody chooses what happens next: another rank goes on,
or a transfer that both sides have posted is carried out. Memory for what comes is spoilt when a receive is posted, and
a message is read when it is carried out, not before: whoever reads or writes too early computes wrongly.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Buffers, Handle
from tokenring_xdit.attention.transport.base import Parcel, with_own
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.schedule.lower.program import RankProgram

__all__ = ["MemoryNetwork", "MemoryTransport"]

_Result = TypeVar("_Result")

Choose = Callable[[int, int], int]
"""From how many ranks can go on, and how many transfers can be carried out, to one of them: ranks first, from 0."""

_SPOILT = 0x7F
"""Of every byte: not a number in fp32 and bf16, or nearly the largest there is."""

_Queue = tuple[int, str]
"""A rank and a channel."""


class _Message:
    """A transfer, with what its two sides have said of it."""

    def __init__(self, route: tuple[int, int, str]) -> None:
        self.route = route  # source, destination, channel
        self.sides: dict[int, tuple[_Queue, int, Tensor]] = {}  # by rank: its exchange on the channel, and memory
        self.over = False


class _MemoryHandle:
    def __init__(self, network: MemoryNetwork, rank: int, message: _Message) -> None:
        self._network, self._rank, self._message = network, rank, message

    def wait(self) -> None:
        """Let others go on until the transfer is over."""
        self._network.let_go_on(self._rank, lambda: self._network.is_over(self._rank, self._message))


class MemoryNetwork:
    """Ranks in one process.

    Args:
        world_size: Number of ranks.
        choose: Chooses what happens next.
        in_order: Whether exchanges of a channel are worked off one after the other, each as a whole.
    """

    def __init__(self, world_size: int, choose: Choose, *, in_order: bool = False) -> None:
        self.world_size, self.in_order = world_size, in_order
        self._choose = choose
        self._changed = threading.Condition()
        self._turn: int | None = None
        self._ready: dict[int, Callable[[], bool]] = {}  # of ranks that wait
        self._failure: BaseException | None = None
        self._messages: dict[tuple[int, int, str], list[_Message]] = defaultdict(list)
        self._counts: dict[tuple[int, tuple[int, int, str]], int] = defaultdict(int)  # of a rank on a route
        self._exchanges: dict[_Queue, list[list[_Message]]] = defaultdict(list)
        self._gathered: dict[str, list[dict[int, Sequence[Tensor]]]] = defaultdict(list)
        self._calls: dict[_Queue, int] = defaultdict(int)

    def run(self, call: Callable[[MemoryTransport], _Result]) -> list[_Result]:
        """Have every rank do something, and return what each got.

        Raises:
            Broken: Every rank waits, and nothing is on its way.
            BaseException: The first that a rank raised.
        """
        found = _Found[_Result](self.world_size)
        threads = [
            threading.Thread(target=self._of_rank, args=(rank, call, found), daemon=True)
            for rank in range(self.world_size)
        ]
        with self._changed:
            self._ready = {rank: lambda: True for rank in range(self.world_size)}
        for thread in threads:
            thread.start()
        with self._changed:
            self._pass_on()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return found.results()

    def _of_rank(self, rank: int, call: Callable[[MemoryTransport], _Result], found: _Found[_Result]) -> None:
        try:
            self._wait_for_turn(rank)
            found.values[rank] = call(MemoryTransport(self, rank))
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            with self._changed:
                self._ready.pop(rank, None)
                self._pass_on()

    # -- whose turn it is ----------------------------------------------------------------------------------------

    def let_go_on(self, rank: int, ready: Callable[[], bool]) -> None:
        """Let others go on, and this rank when it is ready and chosen."""
        with self._changed:
            self._ready[rank] = ready
            self._pass_on()
        self._wait_for_turn(rank)

    def _wait_for_turn(self, rank: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == rank or self._failure is not None)
            self._ready.pop(rank, None)
            if self._failure is not None:
                raise Broken("another rank failed")

    def _pass_on(self) -> None:
        while self._failure is None:
            ranks = [rank for rank in sorted(self._ready) if self._ready[rank]()]
            transfers = [m for route in sorted(self._messages) for m in self._messages[route] if self._can_go(m)]
            if not (ranks or transfers):
                if self._ready:
                    self._failure = Broken(f"ranks {sorted(self._ready)} wait for ever")
                self._turn = None
                break
            chosen = self._choose(len(ranks), len(transfers))
            if chosen < len(ranks):
                self._turn = ranks[chosen]
                break
            self._carry_out(transfers[chosen - len(ranks)])
        self._changed.notify_all()

    # -- transfers -----------------------------------------------------------------------------------------------

    def post(self, rank: int, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> list[Handle]:
        """What :meth:`MemoryTransport.post` does."""
        handles: list[Handle] = []
        of_channel: dict[str, list[_Message]] = defaultdict(list)
        for parcel in recvs:
            _spoil(parcel.tensor)
        for source, parcel in [(False, parcel) for parcel in recvs] + [(True, parcel) for parcel in sends]:
            route = (rank, parcel.peer, parcel.channel) if source else (parcel.peer, rank, parcel.channel)
            number = self._counts[rank, route]
            self._counts[rank, route] += 1
            messages = self._messages[route]
            if number == len(messages):
                messages.append(_Message(route))
            queue = rank, parcel.channel
            messages[number].sides[rank] = queue, len(self._exchanges[queue]), parcel.tensor
            of_channel[parcel.channel].append(messages[number])
            handles.append(_MemoryHandle(self, rank, messages[number]))
        for channel, together in of_channel.items():
            self._exchanges[rank, channel].append(together)
        self.let_go_on(rank, lambda: True)
        return handles

    def is_over(self, rank: int, message: _Message) -> bool:
        """Whether a transfer is over for a rank; in order that is when its exchange is."""
        if not self.in_order:
            return message.over
        queue, number, _ = message.sides[rank]
        return all(other.over for other in self._exchanges[queue][number])

    def _can_go(self, message: _Message) -> bool:
        if message.over or len(message.sides) < 2:
            return False
        if not self.in_order:
            return True
        return all(
            all(other.over for earlier in self._exchanges[queue][:number] for other in earlier)
            for queue, number, _ in message.sides.values()
        )

    def _carry_out(self, message: _Message) -> None:
        source, destination = (message.sides[rank][2] for rank in message.route[:2])
        if source.nbytes != destination.nbytes:
            sentence = f"rank {message.route[0]} sends {source.nbytes} bytes where {destination.nbytes} are expected"
            self._failure = Broken(sentence)
            return
        destination.view(-1).view(torch.uint8).copy_(source.view(-1).view(torch.uint8))
        message.over = True

    def collect(self, rank: int, channel: str, own: Sequence[Tensor]) -> dict[int, Sequence[Tensor]]:
        """What every rank gives to a collective, once all have."""
        number = self._calls[rank, channel]
        self._calls[rank, channel] += 1
        calls = self._gathered[channel]
        if number == len(calls):
            calls.append({})
        calls[number][rank] = [tensor.clone() for tensor in own]
        self.let_go_on(rank, lambda: len(calls[number]) == self.world_size)
        return calls[number]


def _spoil(memory: Tensor) -> None:
    memory.view(-1).view(torch.uint8).fill_(_SPOILT)


class _Found(Generic[_Result]):
    """What ranks got."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.values: dict[int, _Result] = {}

    def results(self) -> list[_Result]:
        return [self.values[rank] for rank in range(self.world_size)]


class MemoryTransport:
    """One rank of a :class:`MemoryNetwork`.

    Args:
        network: The ranks.
        rank: Which of them.
    """

    def __init__(self, network: MemoryNetwork, rank: int) -> None:
        self._network = network
        self.rank, self.world_size, self.in_order = rank, network.world_size, network.in_order
        self.buffers = Buffers()

    def begin(self, name: str, programs: Sequence[RankProgram], dtype: torch.dtype, partial_dtype: torch.dtype) -> None:
        """Nothing: a message says itself where it goes."""

    def end(self) -> None:
        """Nothing."""

    def post(self, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> Sequence[Handle]:
        """Post transfers, and let others go on."""
        return self._network.post(self.rank, recvs, sends)

    def all_gather(self, channel: str, coming: Tensor, own: Tensor) -> None:
        """Give every rank this rank's tensor and take theirs."""
        _spoil(coming)
        found = self._network.collect(self.rank, channel, [own] * self.world_size)
        for peer, part in enumerate(torch.split(coming, own.shape[0])):
            part.copy_(found[peer][self.rank])

    def all_to_all(self, channel: str, coming: Tensor, going: Tensor, rows: Sequence[int], sent: Sequence[int]) -> None:
        """Give every other rank some rows and take some from each."""
        _spoil(coming)
        sizes = with_own(rows, self.rank, coming), with_own(sent, self.rank, going)
        if sizes[0][self.rank] != sizes[1][self.rank]:
            own = f"{sizes[1][self.rank]} rows to itself, where {sizes[0][self.rank]} are expected"
            raise Broken(f"rank {self.rank} sends {own}")
        found = self._network.collect(self.rank, channel, torch.split(going, sizes[1]))
        for peer, part in enumerate(torch.split(coming, sizes[0])):
            if peer != self.rank:
                part.copy_(found[peer][self.rank])

    def gave_up(self, error: BaseException) -> bool:
        """Never: there is no device."""
        return False

    def wait_for(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers, one after the other."""
        for work in works:
            work.wait()
