"""Blocks written by streams of GPUs, of which none is here: in any order of events, with damage that has to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.transport.test_symmetric import EVEN, FP32, UNEVEN, call
from tests.support.memory import at_random, ranks_first
from tests.support.schedules import names
from tests.support.streams import TwinLanes, TwinMark, TwinSignals, error_beside_a_failure, errors
from tests.support.symmetric import Call, careless_senders
from tokenring_xdit.attention.transport import streamed
from tokenring_xdit.attention.transport.streamed import StreamedTransport
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.errors import CommunicationError
from tokenring_xdit.schedule.lower.landing import footprint, landings
from tokenring_xdit.schedule.lower.signals import BARRIER, signals
from tokenring_xdit.schedule.problem import Problem


def of(name: str, problem: Problem, wide: int = 1) -> Call:
    return call(name, problem, wide, in_order=True)


@pytest.mark.parametrize("name", names())
def test_every_schedule_is_exact(name: str) -> None:
    calls = [of(name, problem, wide) for problem, wide in ((EVEN, 1), (UNEVEN, 64))]
    assert max(errors(calls, at_random(1))) <= FP32


@pytest.mark.matrix
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_every_schedule_on_other_numbers_of_ranks(ranks: int) -> None:
    for name in names(any_ranks=ranks % 2 == 1):
        calls = [of(name, Problem.even(ranks, 8 * ranks, 8, 4), wide) for wide in (1, 2, 64, 1)]
        for lanes, choose in ((1, ranks_first), (4, last_first), (4, at_random(ranks))):
            assert max(errors(calls, choose, lanes=lanes)) <= FP32, (name, lanes)


@settings(max_examples=10)
@given(
    st.integers(2, 5), st.lists(st.tuples(st.sampled_from(names(any_ranks=True)), st.sampled_from([1, 2, 64]),
    st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 10**6),
)  # fmt: skip
def test_calls_of_any_shapes_follow_each_other(
    ranks: int, kinds: list[tuple[str, int, int, int]], lanes: int, seed: int
) -> None:
    """Areas grow on the way; with fewer lanes than channels, as where a GPU works streams off one after the other."""
    calls = []
    for name, wide, chunks, shift in kinds:
        lengths = tuple((3 * rank + shift) % 7 for rank in range(ranks))
        keys = tuple((5 * rank + shift + 1) % 6 + (rank == 0) for rank in range(ranks))
        problem = Problem(lengths if sum(lengths) else (1,) * ranks, keys, 4, 2, 4)
        calls.append(of(f"{name}:chunks={chunks}", problem, wide))
    assert max(errors(calls, at_random(seed), lanes=lanes)) <= FP32


@pytest.mark.parametrize("name", ["token_ring:chunks=2", "direct", "heads"])
def test_a_signal_has_one_that_tells_and_one_that_listens(name: str) -> None:
    programs = of(name, Problem.even(5, 20, 5, 4)).programs
    numbered = signals(landings(programs, [footprint(program, 4, 4) for program in programs]))
    used: Counter[tuple[int, int, int]] = Counter()
    for message, number in numbered.came.items():
        used[message.source, message.destination, number] += 1
    for message, number in numbered.free.items():
        used[message.destination, message.source, number] += 1
    assert max(used.values()) == 1
    assert {BARRIER} < {number for *_, number in used} | {BARRIER} <= {*range(numbered.numbers)}


REUSED = [of("token_ring", Problem.even(5, 20, 2, 4)), of("token_ring", Problem.even(5, 20, 2, 4))]
"""Its queries travel through slots that are used again."""


def found_out(seeds: range = range(20)) -> bool:
    """Whether something is wrong in some order of events."""
    for seed in seeds:
        try:
            if not max(errors(REUSED, at_random(seed))) <= 1e-3:  # not a number either
                return True
        except (Broken, AssertionError):
            return True
    return False


def test_nothing_is_found_where_nothing_is_damaged() -> None:
    assert any(each.after for of_rank in _landings(REUSED[0]) for found in of_rank.values() for each in found)
    assert not found_out(range(1))


def _landings(one: Call) -> tuple[object, ...]:
    return landings(one.programs, [footprint(program, 4, 4) for program in one.programs])


def test_a_sender_that_does_not_wait_for_its_slot_is_found_out() -> None:
    with careless_senders():
        assert found_out()


def nothing(*args: object) -> None:
    pass


@pytest.mark.parametrize(
    ("where", "name"),
    [(streamed._Arriving, "wait"), (TwinSignals, "put_signal"), (TwinSignals, "wait_signal")],
)
def test_ranks_that_do_not_wait_for_each_other_are_found_out(where: type, name: str) -> None:
    with mock.patch.object(where, name, nothing):
        assert found_out()


def test_ranks_that_do_not_come_together_between_calls_are_found_out() -> None:
    """Rank 0 is the last to go on: the one before it has all keys by then, and would send those of its next call."""
    calls = [of("ring", Problem.even(3, 12, 2, 4)) for _ in range(2)]
    assert max(errors(calls, last_first)) <= FP32
    with mock.patch.object(TwinSignals, "barrier", nothing):
        assert not max(errors(calls, last_first)) <= 1e-3


def last_first(streams: int, transfers: int) -> int:
    return streams - 1


def test_memory_that_is_used_before_it_has_been_sent_is_found_out() -> None:
    with mock.patch.object(TwinMark, "wait", nothing):
        assert found_out()


def test_a_rank_that_fails_while_its_messages_leave_spoils_no_other_one() -> None:
    call = of("ring", Problem.even(2, 12, 2, 4))
    assert error_beside_a_failure(call, ranks_first) <= FP32
    with mock.patch.object(TwinLanes, "end"):
        assert not error_beside_a_failure(call, ranks_first) <= 1e-3


def test_a_message_that_is_told_before_it_is_written_is_found_out() -> None:
    run = TwinLanes.run

    def hasty(self: TwinLanes, channel: str, operations: list[Callable[[], object]]) -> TwinMark:
        kinds = [each.func.__name__ for each in operations]  # type: ignore[attr-defined]
        swapped = [*operations]
        for at in [at for at, kind in enumerate(kinds) if kind == "copy"]:
            swapped[at : at + 2] = swapped[at : at + 2][::-1]
        return run(self, channel, swapped)

    with mock.patch.object(TwinLanes, "run", hasty):
        assert found_out()


def test_more_signals_than_there_are_are_refused() -> None:
    with (
        mock.patch.object(TwinSignals, "numbers", 3),
        pytest.raises(CommunicationError, match="memory has 3: ask for fewer chunks"),
    ):
        errors(REUSED, at_random(0))


def test_a_stream_that_fails_breaks_the_wait() -> None:
    transport = mock.Mock(_seconds=4.0)
    handle = mock.Mock(wait=mock.Mock(side_effect=RuntimeError("CUDA error: unspecified launch failure")))
    with pytest.raises(Broken, match=r"launch failure \(a GPU gives up where a rank does not come for 4 s\)"):
        StreamedTransport.wait_for(transport, [handle], 0)
