"""Ranks in one process: what they wait for, in which order, and that they cannot read or write too early unnoticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support.memory import at_random, error, ranks_first, transfers_first
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.attention.transport import MemoryNetwork, MemoryTransport, Parcel
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.schedule import build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.problem import Problem


def parcel(value: float, peer: int, channel: str = "q") -> Parcel:
    return Parcel(channel, torch.full((3,), value), peer)


@pytest.mark.parametrize("choose", [ranks_first, transfers_first, at_random(1), at_random(2)])
def test_messages_keep_their_order_between_two_ranks(choose: Callable[[int, int], int]) -> None:
    def call(transport: MemoryTransport) -> list[float]:
        if transport.rank == 0:
            for work in transport.post([], [parcel(1.0, 1), parcel(2.0, 1)]):
                work.wait()
            return []
        places = [parcel(0.0, 0), parcel(0.0, 0)]
        for work in reversed(transport.post(places, [])):
            work.wait()
        return [float(place.tensor[0]) for place in places]

    assert MemoryNetwork(2, choose).run(call) == [[], [1.0, 2.0]]


def test_memory_is_spoilt_until_its_message_is_here() -> None:
    def call(transport: MemoryTransport) -> tuple[float, float]:
        place = parcel(5.0, 1 - transport.rank)
        (arrival, _) = transport.post([place], [parcel(float(transport.rank), 1 - transport.rank)])
        early = float(place.tensor[0])
        arrival.wait()
        return early, float(place.tensor[0])

    found = MemoryNetwork(2, ranks_first).run(call)
    assert [late for _, late in found] == [1.0, 0.0]
    assert all(abs(early) > 1e30 for early, _ in found)


def test_who_waits_for_ever_is_said() -> None:
    def call(transport: MemoryTransport) -> None:
        (arrival,) = transport.post([parcel(0.0, 1 - transport.rank)], [])
        arrival.wait()

    with pytest.raises(Broken, match=r"ranks \[0, 1\] wait for ever"):
        MemoryNetwork(2, ranks_first).run(call)


def test_the_first_error_ends_all() -> None:
    def call(transport: MemoryTransport) -> None:
        if transport.rank == 1:
            raise MemoryError("the card is full")
        transport.post([parcel(0.0, 1)], [])[0].wait()

    with pytest.raises(MemoryError, match="full"):
        MemoryNetwork(2, transfers_first).run(call)


def test_what_goes_and_what_is_expected_have_one_size() -> None:
    def call(transport: MemoryTransport) -> None:
        if transport.rank == 0:
            transport.post([], [Parcel("q", torch.zeros(2), 1)])[0].wait()
        else:
            transport.post([parcel(0.0, 0)], [])[0].wait()

    with pytest.raises(Broken, match="rank 0 sends 8 bytes where 12 are expected"):
        MemoryNetwork(2, transfers_first).run(call)


def test_a_channel_in_order_is_worked_off_exchange_by_exchange() -> None:
    """Each rank posts its receive before its send: independent transfers end, a channel in order waits for ever."""

    def call(transport: MemoryTransport) -> None:
        peer = 1 - transport.rank
        works = [*transport.post([parcel(0.0, peer)], []), *transport.post([], [parcel(1.0, peer)])]
        transport.wait_for(works, 12)

    MemoryNetwork(2, at_random(0)).run(call)
    with pytest.raises(Broken, match="wait for ever"):
        MemoryNetwork(2, at_random(0), in_order=True).run(call)


@pytest.mark.parametrize("kind", ["all-gather", "all-to-all"])
def test_collectives(kind: str) -> None:
    def call(transport: MemoryTransport) -> list[float]:
        rank, others = transport.rank, [peer for peer in range(3) if peer != transport.rank]
        if kind == "all-gather":
            coming = torch.zeros(6)
            transport.all_gather("q", coming, torch.full((2,), float(rank)))
            return [float(part[0]) for part in torch.split(coming, 2)]
        # Every rank sends as many rows as the peer's number and one, so that they get as many as their own.
        going = torch.cat([torch.full((peer + 1,), 10.0 * rank + peer) for peer in range(3)])
        coming = torch.zeros(3 * (rank + 1))
        transport.all_to_all("q", coming, going, [rank + 1] * 2, [peer + 1 for peer in others])
        parts = torch.split(coming, rank + 1)
        return [float(parts[peer][-1]) for peer in others]

    expected = {"all-gather": [[0, 1, 2]] * 3, "all-to-all": [[10, 20], [1, 21], [2, 12]]}
    assert MemoryNetwork(3, at_random(3)).run(call) == expected[kind]


@pytest.mark.parametrize(("careless", "choose"), [("_arrived", ranks_first), ("_free", ranks_first)])
def test_an_executor_that_does_not_wait_is_found_out(
    careless: str, choose: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem.even(5, 40, 2, 4)
    programs = lower(build("token_ring", 5).schedule, problem, in_order=False)
    assert error(programs, problem, choose) <= 1e-5
    monkeypatch.setattr(RankRun, careless, lambda run, slot: None)
    found = error(programs, problem, choose)
    assert not found <= 1e-3  # not a number either
