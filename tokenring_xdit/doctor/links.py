"""Measures what joins the ranks: their topology, and what messages reach by their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tokenring_xdit.doctor.cases import CheckupPlan, Step
from tokenring_xdit.doctor.commands import TimeMessages
from tokenring_xdit.doctor.pools import Ranks
from tokenring_xdit.doctor.record import MessageTiming
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.probe import probe
from tokenring_xdit.probe.commands import Ping
from tokenring_xdit.probe.report import remarks
from tokenring_xdit.topology import Network, Rate

__all__ = ["LinksFound", "measure_links", "with_messages"]

_TIMEOUT = 60.0
_SECONDS, _SECONDS_QUICK = 20.0, 5.0  # of the probe
_PINGS = 30

_SMALLEST = 1 << 13
_LARGEST = {True: 1 << 27, False: 1 << 23}
"""Bytes of a message, on GPUs and without."""

_ALIKE = 1.2  # times that the rate of one link may be that of another
_MESSAGES = 8
_ROUNDS = 5


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


def measure_links(plan: CheckupPlan, ranks: Ranks, step: Step) -> LinksFound:
    """Measure messages between two ranks, then all ranks.

    Args:
        plan: What the checkup does.
        ranks: Who carries it out.
        step: Told what comes next.

    Raises:
        LaunchError: A rank failed or did not answer in time.
    """
    latency = median(ranks.ask(Ping((0, 1), _PINGS), _TIMEOUT)[0].seconds)
    sizes = [_SMALLEST]
    while sizes[-1] < _LARGEST[plan.on_gpus]:
        sizes.append(min(4 * sizes[-1], _LARGEST[plan.on_gpus]))
    messages = []
    for done, size in enumerate(sizes):
        step(done, len(sizes), f"messages of {size} bytes")
        there, both = (_seconds(ranks, size, both_ways) for both_ways in (False, True))
        messages.append(MessageTiming(size=size, rate=size / there, both_ways=size / both))
    try:
        probed = probe(ranks.pool, quick=True, seconds=_SECONDS_QUICK if plan.quick else _SECONDS, on_step=step)
    except LaunchError:
        ranks.forget()
        raise
    inference = probed.inference
    network = inference.network
    if network is not None and plan.on_gpus:
        network = with_messages(network, messages, latency)
    return LinksFound(latency, tuple(messages), network, inference.words, remarks(probed, None))


def with_messages(network: Network, messages: Sequence[MessageTiming], latency: float) -> Network:
    """A network with what messages alone reach, beside the latency, where its links are all alike.

    Between two ranks was measured; of links that differ from theirs that says nothing. Nor does a message that takes
    little more than the latency.
    """
    rates = [rate.bits_per_second for link in network.links for rate in (link.rate, link.back)]
    if max(rates) > _ALIKE * min(rates):
        return network
    times = [(message.size, message.size / message.both_ways) for message in messages]
    known = tuple((size, Rate(round(8 * size / (time - latency)))) for size, time in times if time > 2 * latency)
    return replace(network, links=tuple(replace(link, messages=known) for link in network.links))


def _seconds(ranks: Ranks, size: int, both_ways: bool) -> float:
    first, second, *_ = ranks.ask(TimeMessages(size, both_ways, _MESSAGES, _ROUNDS), _TIMEOUT)
    return max(float(first), float(second))
