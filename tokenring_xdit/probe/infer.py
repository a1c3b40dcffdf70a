"""From figures of a probe to the network that gives such figures, or to the statement that none was found.

Every network that is considered gets rates from the figures: a link carries the most that was seen to pass it. Then it
is asked what all trials would have come to, had their transfers shared its links fairly. The simplest network that
answers what was measured is the one; where none does, nothing is inferred.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, median

from tokenring_xdit.probe.figures import Figures, TrialKind
from tokenring_xdit.probe.shapes import Candidate, NetworkShape, candidates
from tokenring_xdit.probe.sharing import fair_shares
from tokenring_xdit.topology.links import Rate
from tokenring_xdit.topology.network import Network
from tokenring_xdit.topology.sharing import Direction

__all__ = ["MOST_ERROR", "MOST_NOISE", "Inference", "infer", "spoken"]

MOST_NOISE = 0.25
"""Measurements of the same that differ by more than this share tell nothing."""

MOST_ERROR = 0.2
"""A network that is off by more than this share in one kind of trials is not believed."""

_FULL_DUPLEX = 0.85  # of both directions at once, and more
_FULL = 0.85  # of the most that passed a link: it was full then, too
_ALIKE = 0.15  # rates of a tier that differ by less are taken for one
_COST_OF_FREEDOM = 0.03  # a network that can imitate others has to be better by this


@dataclass(frozen=True)
class Inference:
    """What figures say about a network.

    Attributes:
        network: The network, with payload rates; ``None`` where none is believed.
        shape: What it looks like.
        words: The same in one line for people, or why nothing is believed.
        error: By how much its answers are off, in the kind of trials where that is most: 0.1 is 10%.
        notes: What else to know.
    """

    network: Network | None
    shape: NetworkShape | None
    words: str
    error: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fit:
    candidate: Candidate
    capacity: Mapping[Direction, float]
    error: float

    @property
    def badness(self) -> float:
        return self.error + _COST_OF_FREEDOM * self.candidate.freedom


def infer(figures: Figures) -> Inference:
    """The simplest network that explains figures.

    Args:
        figures: At least every rank's rate to and from some other, measured alone.
    """
    if figures.noise > MOST_NOISE:
        return Inference(
            None,
            None,
            f"measurements of the same differ by {figures.noise:.0%}, and by more than {MOST_NOISE:.0%} nothing can be "
            "told: something else uses this network or these processors",
            math.inf,
        )
    settled = tuple(figure for figure in figures.figures if figure.spread <= MOST_NOISE)
    left_out = len(figures.figures) - len(settled)
    figures = replace(figures, figures=settled)
    duplex = figures.duplex if figures.duplex < _FULL_DUPLEX else 1.0
    best = min((_fit(candidate, figures, duplex) for candidate in candidates(figures)), key=lambda fit: fit.badness)
    if best.error > MOST_ERROR:
        return Inference(
            None,
            None,
            f"no network that is looked for gives these figures; the nearest, {best.candidate.shape.value}, is off by "
            f"{best.error:.0%}",
            best.error,
        )
    return _told(best, figures, duplex, left_out)


def _routes(candidate: Candidate) -> Mapping[tuple[int, int], tuple[Direction, ...]]:
    hosts = candidate.network.hosts

    class _Routes(dict[tuple[int, int], tuple[Direction, ...]]):
        def __missing__(self, transfer: tuple[int, int]) -> tuple[Direction, ...]:
            route = tuple(pairwise(candidate.network.route(hosts[transfer[0]], hosts[transfer[1]])))
            self[transfer] = route
            return route

    return _Routes()


def _fit(candidate: Candidate, figures: Figures, duplex: float) -> _Fit:
    routes = _routes(candidate)
    capacity = _capacities(candidate, figures, routes)
    off: dict[tuple[TrialKind, int], list[float]] = defaultdict(list)
    for figure in figures.figures:
        if figure.trial.kind is TrialKind.ALL:
            continue  # on ranks that share processors it measures those, and other trials tell as much of the links
        shares = fair_shares([routes[t] for t in figure.trial.transfers], capacity, duplex)
        # Short transfers share a link unevenly, so those that do are judged together.
        expected: dict[tuple[str, ...], float] = defaultdict(float)
        measured: dict[tuple[str, ...], float] = defaultdict(float)
        for share, rate in zip(shares, figure.rates, strict=True):
            expected[share.limit] += share.rate
            measured[share.limit] += rate
        off[figure.trial.group(figures.ranks)] += [
            abs(math.log(max(measured[share.limit], 1.0) / expected[share.limit])) for share in shares
        ]
    return _Fit(candidate, capacity, max(mean(entries) for entries in off.values()))


def _capacities(
    candidate: Candidate, figures: Figures, routes: Mapping[tuple[int, int], tuple[Direction, ...]]
) -> dict[Direction, float]:
    """What each direction of each link carries: what passed it in the trials that filled it."""
    passed: dict[Direction, list[float]] = defaultdict(list)
    for figure in figures.figures:
        loads: dict[Direction, float] = defaultdict(float)
        for transfer, rate in zip(figure.trial.transfers, figure.rates, strict=True):
            for direction in routes[transfer]:
                loads[direction] += rate
        for direction, load in loads.items():
            passed[direction].append(load)
    found = {direction: median(v for v in loads if v >= _FULL * max(loads)) for direction, loads in passed.items()}
    capacity: dict[Direction, float] = {}
    for tier in dict.fromkeys(candidate.tiers):
        links = [w for w, its in zip(candidate.network.links, candidate.tiers, strict=True) if its is tier]
        directions = [direction for link in links for direction in (link.ends, link.ends[::-1])]
        known = [found[direction] for direction in directions if direction in found] or [max(found.values())]
        usual = median(known)
        alike = max(known) - min(known) <= _ALIKE * usual
        capacity |= {d: usual if alike else found.get(d, usual) for d in directions}
    return capacity


def _told(fit: _Fit, figures: Figures, duplex: float, left_out: int) -> Inference:
    candidate, network = fit.candidate, fit.candidate.network
    delays = _delays(candidate, figures)
    links = tuple(
        replace(
            link,
            rate=_rounded(fit.capacity[link.ends] * duplex),
            back=_rounded(fit.capacity[link.ends[::-1]] * duplex),
            delay=delays.get(frozenset(link.ends), 0.0),
        )
        for link in network.links
    )
    notes = []
    if left_out:
        notes.append(f"{left_out} of {left_out + len(figures.figures)} trials gave no steady rates and were left out")
    if duplex < 1:
        notes.append(
            f"both directions of a link at once carry {duplex:.0%} of what they carry alone: the rates are those with "
            f"both loaded, and one direction alone carries {1 / duplex:.2f} times as much"
        )
    return Inference(
        replace(network, links=links), candidate.shape, _in_words(candidate, fit, duplex), fit.error, tuple(notes)
    )


def _delays(candidate: Candidate, figures: Figures) -> dict[frozenset[str], float]:
    """The delay of each link: of the pairs whose messages pass it, the least share that falls to one link."""
    routes = _routes(candidate)
    delays: dict[frozenset[str], float] = {}
    for pair, seconds in figures.latencies:
        for direction in routes[pair]:
            share = float(f"{seconds / len(routes[pair]):.3g}")
            delays[frozenset(direction)] = min(share, delays.get(frozenset(direction), math.inf))
    return delays


def _in_words(candidate: Candidate, fit: _Fit, duplex: float) -> str:
    parts = []
    for tier in dict.fromkeys(candidate.tiers):
        rates = [
            fit.capacity[direction] * duplex
            for link, its in zip(candidate.network.links, candidate.tiers, strict=True)
            if its is tier
            for direction in (link.ends, link.ends[::-1])
        ]
        low, high = spoken(min(rates)), spoken(max(rates))
        parts.append(f"{tier.value} of {low if low == high else f'{low} to {high}'}")
    what = candidate.shape.value
    if candidate.shape is NetworkShape.RING:
        what += " " + "-".join(map(str, (*candidate.order, candidate.order[0])))
    if candidate.groups:
        what += ", groups of ranks " + ", ".join(_listed(group) for group in candidate.groups)
    return f"{what}: {'; '.join(parts)}"


def _listed(ranks: Sequence[int]) -> str:
    if len(ranks) > 2 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return "+".join(map(str, ranks))


def _rounded(bits: float) -> Rate:
    return Rate(max(1, int(float(f"{bits:.3g}"))))


def spoken(bits: float) -> str:
    """A rate for people, such as 95.3 Mbit/s."""
    for size, unit in ((1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= size:
            return f"{bits / size:.3g} {unit}"
    return f"{bits:.3g} bit/s"
