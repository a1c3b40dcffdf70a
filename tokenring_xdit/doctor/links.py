"""Measures what joins the ranks: their topology, and what messages reach by their size."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from tokenring_xdit.doctor.cases import CheckupPlan, Step
from tokenring_xdit.doctor.pools import Ranks
from tokenring_xdit.doctor.record import MessageTiming
from tokenring_xdit.lab.probe import PROBE, probe
from tokenring_xdit.lab.probe.commands import Arrivals, Ping, SendMessages
from tokenring_xdit.lab.probe.driver import steady_rates
from tokenring_xdit.lab.probe.report import remarks
from tokenring_xdit.topology import Network

__all__ = ["LinksFound", "measure_links"]

_TIMEOUT = 60.0
_SECONDS, _SECONDS_QUICK = 20.0, 5.0  # of the probe
_PINGS = 30
_ONE_WAY, _BOTH_WAYS = ((0, 1),), ((0, 1), (1, 0))

_SMALLEST = 1 << 13
_LARGEST = {True: 1 << 27, False: 1 << 24}
"""Bytes of a message, on GPUs and without."""

_MESSAGES = 12  # of each size; what comes between the first and the last counts
_ROUNDS = 3


@dataclass(frozen=True)
class LinksFound:
    """What joins the ranks.

    Attributes:
        latency: Seconds of a few bytes for one way between ranks 0 and 1.
        messages: By size.
        network: What was inferred; ``None`` where the figures are those of no known network.
        said: What the figures mean, or why they mean nothing.
        beside: What is written beside the network.
    """

    latency: float
    messages: tuple[MessageTiming, ...]
    network: Network | None
    said: str
    beside: dict[str, Any]


def measure_links(plan: CheckupPlan, step: Step) -> LinksFound:
    """Measure messages between two ranks, then all ranks.

    Args:
        plan: What the checkup does.
        step: Told what comes next.

    Raises:
        LaunchError: A rank failed or did not answer in time.
    """
    sizes = [_SMALLEST]
    while sizes[-1] < _LARGEST[plan.on_gpus]:
        sizes.append(4 * sizes[-1])
    with Ranks(PROBE, plan.ranks, on_gpus=plan.on_gpus) as ranks:
        step(0, 0, "messages between two ranks")
        latency = median(ranks.ask(Ping((0, 1), _PINGS), _TIMEOUT)[0].seconds)
        messages = tuple(
            MessageTiming(size=size, rate=_rate(ranks, _ONE_WAY, size), both_ways=_rate(ranks, _BOTH_WAYS, size))
            for size in sizes
        )
        probed = probe(ranks.pool, quick=True, seconds=_SECONDS_QUICK if plan.quick else _SECONDS, on_step=step)
    inference = probed.inference
    return LinksFound(latency, messages, inference.network, inference.words, remarks(probed, None))


def _rate(ranks: Ranks, transfers: tuple[tuple[int, int], ...], size: int) -> float:
    """Bytes a second of each of the transfers, their mean, the median of some rounds."""
    found = []
    for _ in range(_ROUNDS):
        answers: list[Arrivals] = ranks.ask(SendMessages(transfers, (size,) * len(transfers), _MESSAGES), _TIMEOUT)
        arrivals = [answers[to].seconds[index] for index, (_, to) in enumerate(transfers)]
        rates = steady_rates(arrivals, [size] * len(transfers))
        found.append(sum(rates) / len(rates) / 8)
    return median(found)
