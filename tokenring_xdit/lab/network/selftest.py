"""Does an emulated network carry what it states? Measured by TCP transfers between its nodes.

Stated rates count Ethernet frames, measured ones the payload of TCP: at most 95.6% of them with 1500-byte
packets, and a little less with both directions loaded, as acknowledgements take their share. A link is
good when it carries 90% of its stated rate in payload, in both directions together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenring_xdit.errors import NetworkError
from tokenring_xdit.lab.network import transfer
from tokenring_xdit.lab.network.emulate import EmulatedNetwork
from tokenring_xdit.topology.links import FRAME, Link, Rate
from tokenring_xdit.topology.network import Network

__all__ = [
    "LEAST_SHARE",
    "LinkFigure",
    "LinkReport",
    "NetworkReport",
    "refuse_slow",
    "self_test",
    "transfers_together",
]

LEAST_SHARE = 0.9
"""Share of its stated rate that a link has to carry as payload."""

_MOST_SHARE = 1.05  # above it the limits do not work; payload alone stays below 0.96
_ATTEMPTS = 10  # a measurement that falls short is repeated: the machine may have been busy
_WARM_UP = 0.3  # seconds
_WINDOW = 0.4  # seconds, at least
_FRAMES = 400  # at least this many have to fit into the window, else their number is too rough

_Transfer = tuple[str, str]
"""Source and destination."""


@dataclass(frozen=True)
class LinkFigure:
    """A measured transfer.

    Attributes:
        source: Node that sent.
        destination: Node that received.
        stated: Rate of the slowest link on the way.
        reached: Payload, bits a second.
    """

    source: str
    destination: str
    stated: Rate
    reached: float

    @property
    def share(self) -> float:
        """Payload rate over stated rate."""
        return self.reached / self.stated.bits_per_second

    @property
    def good(self) -> bool:
        """Whether the link carries what it states, neither less nor more."""
        return LEAST_SHARE <= self.share <= _MOST_SHARE

    def to_dict(self) -> dict[str, Any]:
        """For JSON; rates in bits a second."""
        return {
            "from": self.source,
            "to": self.destination,
            "stated": self.stated.bits_per_second,
            "reached": round(self.reached),
            "share": round(self.share, 4),
        }

    def __str__(self) -> str:
        return f"{self.reached / 1e6:.3g} of {self.stated.bits_per_second / 1e6:g} Mbit/s ({self.share:.0%})"


@dataclass(frozen=True)
class LinkReport:
    """What one link carried.

    Attributes:
        link: The link.
        one_way: From a to b, nothing the other way.
        there: From a to b, both directions loaded.
        back: From b to a, both directions loaded.
    """

    link: Link
    one_way: LinkFigure
    there: LinkFigure
    back: LinkFigure


@dataclass(frozen=True)
class NetworkReport:
    """What a network carried.

    Attributes:
        network: Its description.
        links: Each link by itself.
        together: Transfers between hosts that load as much of the network at once as they can without
            two of them sharing a direction of a link.
    """

    network: Network
    links: tuple[LinkReport, ...]
    together: tuple[LinkFigure, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; rates in bits a second."""
        return {
            "network": self.network.name,
            "least_share": LEAST_SHARE,
            "good": not _bad(self),
            "links": [
                {
                    "between": list(report.link.ends),
                    "one_way": report.one_way.to_dict(),
                    "there": report.there.to_dict(),
                    "back": report.back.to_dict(),
                }
                for report in self.links
            ],
            "together": [figure.to_dict() for figure in self.together],
        }


def self_test(emulated: EmulatedNetwork) -> NetworkReport:
    """Measure every link in one direction, then in both at once, then the network as a whole.

    Links that share no node are measured at the same time. What falls short is measured again, by itself,
    up to ten times in all, and its best figure counts. About a second a link.

    Raises:
        NetworkError: A process that transfers could not be started or died.
    """
    network = emulated.network
    one_way: dict[Link, LinkFigure] = {}
    both: dict[Link, tuple[LinkFigure, LinkFigure]] = {}
    with _agents(emulated) as agents:
        for links in _disjoint(network.links):
            for link, (figure,) in agents.measure({w: [w.ends] for w in links}).items():
                one_way[link] = figure
            for link, (there, back) in agents.measure({w: [w.ends, w.ends[::-1]] for w in links}).items():
                both[link] = (there, back)
        (together,) = agents.measure({None: transfers_together(network)}).values()
    return NetworkReport(network, tuple(LinkReport(w, one_way[w], *both[w]) for w in network.links), together)


def refuse_slow(report: NetworkReport) -> None:
    """Refuse a network that does not carry what it states.

    Raises:
        NetworkError: It names the worst transfer, what was stated and what was reached.
    """
    bad = _bad(report)
    if not bad:
        return
    why, worst = max(bad, key=lambda entry: abs(1 - entry[1].share))
    more = f" ({len(bad)} transfers are off in all)" if len(bad) > 1 else ""
    path = report.network.route(worst.source, worst.destination)
    what = "the link" if len(path) == 2 else f"the way over {', '.join(path[1:-1])}"
    if worst.share < LEAST_SHARE:
        advice = (
            "at least 90% has to arrive: state a lower rate or take fewer hosts, as all of them share this machine, or "
            "end what else runs on it"
        )
    else:
        advice = "its limits are not in force"
    raise NetworkError(
        f"network '{report.network.name}' is not what it states: {what} from {worst.source} to {worst.destination} "
        f"carried {worst}, {why}{more}: {advice}"
    )


def transfers_together(network: Network) -> list[_Transfer]:
    """Transfers between hosts that can all have their full rate at once: no two share a direction of a link.

    In a mesh, a ring and a star they load every link in both directions.
    """
    hosts, taken = network.hosts, set[_Transfer]()
    chosen = []
    for distance in range(1, len(hosts)):
        for index, source in enumerate(hosts):
            destination = hosts[(index + distance) % len(hosts)]
            path = set(pairwise(network.route(source, destination)))
            if not path & taken:
                taken |= path
                chosen.append((source, destination))
    return chosen


def _bad(report: NetworkReport) -> list[tuple[str, LinkFigure]]:
    return [
        (why, figure)
        for why, figures in (
            ("one way", [w.one_way for w in report.links]),
            ("with both directions of it loaded", [f for w in report.links for f in (w.there, w.back)]),
            ("with the whole network loaded", report.together),
        )
        for figure in figures
        if not figure.good
    ]


def _disjoint(links: Sequence[Link]) -> list[list[Link]]:
    """All links, in groups of which no two share a node."""
    groups: list[list[Link]] = []
    for link in links:
        for group in groups:
            if not any(set(link.ends) & set(other.ends) for other in group):
                group.append(link)
                break
        else:
            groups.append([link])
    return groups


class _Agents:
    """One process in each node that sends and receives on demand."""

    def __init__(self, emulated: EmulatedNetwork, processes: dict[str, subprocess.Popen[str]]) -> None:
        self._emulated = emulated
        self._processes = processes

    def measure(self, transfers: dict[Any, list[_Transfer]]) -> dict[Any, tuple[LinkFigure, ...]]:
        """Measure all transfers at once; again, key by key, those that fall short."""
        flat = [t for several in transfers.values() for t in several]
        figures = dict(zip(flat, self._measure(flat), strict=True))
        result = {key: tuple(figures[t] for t in several) for key, several in transfers.items()}
        for key, several in transfers.items():
            for _ in range(1, _ATTEMPTS):
                if all(figure.good for figure in result[key]):
                    break
                again = self._measure(several)
                result[key] = max(result[key], again, key=lambda found: min(figure.share for figure in found))
        return result

    def _measure(self, transfers: Sequence[_Transfer]) -> tuple[LinkFigure, ...]:
        network, address = self._emulated.network, self._emulated.address
        stated = {t: network.slowest_rate(*t) for t in transfers}
        slowest = min(rate.bits_per_second for rate in stated.values())
        window = max(_WINDOW, _FRAMES * FRAME * 8 / slowest)
        begin = time.monotonic() + _WARM_UP
        involved = [node for node in network.nodes if any(node in t for t in transfers)]
        for node in involved:
            to = [address(destination) for source, destination in transfers if source == node]
            self._order(node, {"source": address(node), "to": to, "begin": begin, "end": begin + window})
        received = {node: self._answer(node) for node in involved}
        return tuple(
            LinkFigure(source, destination, rate, received[destination].get(address(source), 0) * 8 / window)
            for (source, destination), rate in stated.items()
        )

    def _order(self, node: str, order: dict[str, Any]) -> None:
        stdin = self._processes[node].stdin
        assert stdin is not None
        try:
            print(json.dumps(order), file=stdin, flush=True)
        except BrokenPipeError:
            raise self._died(node) from None

    def _answer(self, node: str) -> dict[str, int]:
        line = self.read(node)
        answer: dict[str, int] = json.loads(line)
        return answer

    def read(self, node: str) -> str:
        """The next line that the process of a node says."""
        stdout = self._processes[node].stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise self._died(node)
        return line

    def _died(self, node: str) -> NetworkError:
        _, err = self._processes[node].communicate()
        return NetworkError(f"the self-test's process at {node} died: {err.strip() or 'it said nothing'}")


@contextmanager
def _agents(emulated: EmulatedNetwork) -> Iterator[_Agents]:
    processes: dict[str, subprocess.Popen[str]] = {}
    command = [sys.executable, "-I", "-S", str(Path(transfer.__file__))]
    try:
        for node in emulated.network.nodes:
            processes[node] = subprocess.Popen(
                emulated.inside(node, command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        agents = _Agents(emulated, processes)
        for node in processes:
            agents.read(node)  # it is ready
        yield agents
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.communicate()
