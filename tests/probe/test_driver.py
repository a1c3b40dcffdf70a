"""Rates from the times at which messages arrived."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tokenring_xdit.errors import NetworkError
from tokenring_xdit.probe.commands import Arrivals, Describe, Description, OneWay, Ping, SendMessages
from tokenring_xdit.probe.driver import probe, steady_rates


def arriving(rate: float, size: int, messages: int, start: float = 0.0) -> list[float]:
    """When messages come at a steady rate, in bits a second."""
    return [start + 8 * size * (n + 1) / rate for n in range(messages)]


def test_a_transfer_alone_has_its_rate_whatever_came_before_its_first_message() -> None:
    late = [0.3 + time for time in arriving(1e8, 10_000, 12)]
    assert steady_rates([late], [10_000]) == pytest.approx([1e8])


def test_what_shares_a_link_unevenly_sums_up_to_what_it_carries() -> None:
    """One has 80 of 100 Mbit/s until it is over, the other one what is left, and then all."""
    first = arriving(80e6, 100_000, 12)
    second = arriving(20e6, 100_000, 3) + arriving(100e6, 100_000, 9, start=first[-1])
    rates = steady_rates([first, second], [100_000, 100_000])
    assert sum(rates) == pytest.approx(100e6)
    assert rates[0] == pytest.approx(80e6)


def test_sizes_may_differ() -> None:
    fast, slow = arriving(90e6, 90_000, 12), arriving(10e6, 10_000, 12)
    assert steady_rates([fast, slow], [90_000, 10_000]) == pytest.approx([90e6, 10e6])


class BusyRanks:
    """Two ranks that see their first messages only once all have come, as many times as is said."""

    ranks = 2

    def __init__(self, busy: float) -> None:
        self._busy, self._sent = busy, itertools.count()

    def ask(self, command: Any, timeout: float) -> list[Any]:
        """Carry out a command."""
        if isinstance(command, Describe):
            return [Description("here", 0, "cpu", "gloo", "2.13")] * 2
        if isinstance(command, Ping):
            return [OneWay([1e-4]), None]
        assert isinstance(command, SendMessages)
        late = next(self._sent) < self._busy
        times = [[0.0] * command.messages if late else arriving(1e8, size, command.messages) for size in command.sizes]
        return [Arrivals(dict(enumerate(times)))] * 2


def test_what_no_time_was_seen_of_is_measured_again() -> None:
    found = probe(BusyRanks(4), quick=True, seconds=0.1)  # type: ignore[arg-type]
    assert found.figures.alone == {(0, 1): pytest.approx(1e8), (1, 0): pytest.approx(1e8)}


def test_ranks_that_are_always_too_busy_are_named() -> None:
    with pytest.raises(NetworkError, match=r"rank 1 was too busy to see messages come, 6 times in a row"):
        probe(BusyRanks(float("inf")), quick=True, seconds=0.1)  # type: ignore[arg-type]
