"""Rates from the times at which messages arrived."""

from __future__ import annotations

import pytest

from tokenring_xdit.lab.probe.driver import steady_rates


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
