"""Areas of all ranks in this process: the transport over shared memory, with what happens next chosen by a test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor

from tests.support.memory import Choose, Shards
from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention.kernels import KERNELS, KernelFunction
from tokenring_xdit.attention.local import LocalAttention
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.attention.transport import MemoryNetwork, MemoryTransport, slots
from tokenring_xdit.attention.transport.slots import SlotTransport
from tokenring_xdit.attention.transport.symmetric import SymmetricTransport
from tokenring_xdit.schedule.lower.landing import landings
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.problem import Problem

_OVER = 0xFFFFFF
"""The part of a clock that says that a call is over."""

_SPOILT = 0x7F


@dataclass
class Call:
    """One call of all ranks.

    Attributes:
        programs: What they do.
        problem: The shapes.
    """

    programs: Sequence[RankProgram]
    problem: Problem


@dataclass
class Areas:
    """The memory of all ranks.

    Attributes:
        network: Who runs.
        memories: Of each rank.
        clocks: Of each rank.
        counts: What came, of destination, source and channel.
        bells: Of each rank.
        grown: How many areas of each size were asked for.
    """

    network: MemoryNetwork
    memories: list[Tensor]
    clocks: list[int]
    bells: list[int]
    counts: dict[tuple[int, int, str], int] = field(default_factory=lambda: defaultdict(int))
    grown: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, network: MemoryNetwork) -> Areas:
        """Areas without memory."""
        ranks = network.world_size
        return cls(network, [torch.empty(0, dtype=torch.uint8)] * ranks, [0] * ranks, [0] * ranks)


class TwinArea:
    """What one rank has of them. Others may go on between any two of its writes, and in the middle of a message."""

    def __init__(self, areas: Areas, rank: int) -> None:
        self._areas, self.rank, self.world_size, self.size = areas, rank, areas.network.world_size, 0

    def _yield(self) -> None:
        self._areas.network.let_go_on(self.rank, lambda: True)

    def grow(self, size: int) -> None:
        """All ranks together."""
        areas, rounds = self._areas, len(self._areas.grown) // self.world_size + 1
        areas.memories[self.rank] = torch.full((size,), _SPOILT, dtype=torch.uint8)
        areas.clocks[self.rank] = 0
        for key in [key for key in areas.counts if key[0] == self.rank]:
            areas.counts[key] = 0
        areas.grown.append(size)
        areas.network.let_go_on(self.rank, lambda: len(areas.grown) >= rounds * self.world_size)
        self.size = size

    def memory(self, rank: int) -> Tensor:
        """The bytes of a rank's area."""
        return self._areas.memories[rank]

    def copy(self, place: Tensor, message: Tensor) -> None:
        """In two halves."""
        half = message.numel() // 2
        place[:half].copy_(message[:half])
        self._yield()
        place[half:].copy_(message[half:])
        self._yield()

    def clock(self, rank: int) -> int:
        """How far a rank has said to be."""
        return self._areas.clocks[rank]

    def tell(self, clock: int, peers: Sequence[int]) -> None:
        """Say how far this rank is; what a call that is over has left is spoilt."""
        if clock & _OVER == _OVER:
            self._areas.memories[self.rank].fill_(_SPOILT)
        self._areas.clocks[self.rank] = clock
        self._yield()
        for peer in peers:
            self._areas.bells[peer] += 1

    def came(self, source: int, channel: str) -> int:
        """What a rank has said that it has written here."""
        return self._areas.counts[self.rank, source, channel]

    def arrive(self, peer: int, channel: str, count: int) -> None:
        """Say to a rank what has been written there."""
        self._areas.counts[peer, self.rank, channel] = count
        self._yield()
        self._areas.bells[peer] += 1

    def bell(self) -> int:
        """How often this rank was woken up."""
        return self._areas.bells[self.rank]

    def sleep(self, bell: int, seconds: float) -> None:
        """Until somebody wakes it up."""
        self._areas.network.let_go_on(self.rank, lambda: self._areas.bells[self.rank] != bell)

    def wake(self) -> None:
        """Wake up this rank."""
        self._areas.bells[self.rank] += 1

    def close(self) -> None:
        """Nothing."""


def errors(calls: Sequence[Call], choose: Choose, *, size: int = 64) -> list[float]:
    """How far each of some calls, one after the other, is from softmax in fp64, of its scale.

    Args:
        calls: Of as many ranks each.
        choose: Who goes on.
        size: Bytes of the first areas.
    """
    network = MemoryNetwork(calls[0].problem.ranks, choose)
    areas = Areas.of(network)
    shards = shards_of(calls)

    def of_rank(turn: MemoryTransport) -> list[tuple[Tensor, Tensor]]:
        area = TwinArea(areas, turn.rank)
        area.grow(size)
        transport = SymmetricTransport(area, lambda works, _: [work.wait() for work in works] and None, lambda: 1e6)
        return attended(transport, calls, shards)

    return worst_of(network.run(of_rank), shards)


@contextmanager
def careless_senders() -> Iterator[None]:
    """Inside, no sender waits until its slot is free."""

    def careless(*args: object) -> object:
        return tuple(
            {route: tuple(each._replace(after=0) for each in messages) for route, messages in of_rank.items()}
            for of_rank in landings(*args)  # type: ignore[arg-type]
        )

    with mock.patch.object(slots, "landings", careless), mock.patch.object(slots, "prove_landings"):
        yield


def shards_of(calls: Sequence[Call]) -> list[Shards]:
    """Other tensors for each call."""
    return [Shards.of(call.problem, seed) for seed, call in enumerate(calls)]


def attended(
    transport: SlotTransport,
    calls: Sequence[Call],
    shards: Sequence[Shards],
    kernel: KernelFunction = KERNELS["math"].run,
) -> list[tuple[Tensor, Tensor]]:
    """What one rank gets in each call."""
    rank, found = transport.rank, []
    for number, (call, whole) in enumerate(zip(calls, shards, strict=True), 1):
        transport.call = 3 * number  # other calls of the group are counted too
        problem = call.problem
        q, k, v = (
            tensor.split(lengths, 2)[rank]
            for tensor, lengths in (
                (whole.q, problem.q_lengths), (whole.k, problem.kv_lengths), (whole.v, problem.kv_lengths)
            )
        )  # fmt: skip
        run = RankRun("", call.programs, transport, LocalAttention(kernel, None), q, k, v)
        found.append(run.run())
    return found


def worst_of(found: Sequence[Sequence[tuple[Tensor, Tensor]]], shards: Sequence[Shards]) -> list[float]:
    """How far each call is from softmax in fp64.

    Args:
        found: Of each rank, of each call: output and log-sum-exp.
        shards: Of each call.
    """
    worst = []
    for number, whole in enumerate(shards):
        expected = softmax_attention(whole.q, whole.k, whole.v)
        got = [torch.cat([of_rank[number][part] for of_rank in found], 2) for part in range(2)]
        worst.append(max(relative_error(one, other) for one, other in zip(got, expected, strict=True)))
    return worst
