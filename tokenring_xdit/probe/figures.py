"""What a probe measures: which ranks send to which at the same time, and how fast they were.

:mod:`tokenring_xdit.probe` measures, :mod:`~tokenring_xdit.probe.infer` says which network would give such
figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import combinations, permutations
from statistics import median
from typing import Any

__all__ = [
    "SAMPLED_ABOVE",
    "Figures",
    "Measured",
    "ProbeTrial",
    "Transfer",
    "TrialKind",
    "suspected_trials",
    "trials_for",
]

Transfer = tuple[int, int]
"""The rank that sends and the one that receives."""

SAMPLED_ABOVE = 16
"""Of more ranks than this only some pairs are measured."""

_PARTNERS = 6  # of a rank, where pairs are sampled
_MOST_SUSPECTS = 8  # of more ranks, pairs that may share a link are too many


class TrialKind(Enum):
    """What a trial is for."""

    ONE_WAY = "one way"
    BOTH_WAYS = "both ways"
    ONE_TO_ALL = "one to all"
    ALL_TO_ONE = "all to one"
    SHIFT = "each to another"
    ALL = "all at once"
    SUSPECTED = "suspected to share a link"


@dataclass(frozen=True)
class ProbeTrial:
    """Transfers that are measured at the same time.

    Attributes:
        kind: What for.
        transfers: Which; no two are the same.
    """

    kind: TrialKind
    transfers: tuple[Transfer, ...]

    def group(self, ranks: int) -> tuple[TrialKind, int]:
        """What is alike of the trials of a world: their kind and, of shifts, the distance."""
        (source, destination), *_ = self.transfers
        return self.kind, (destination - source) % ranks if self.kind is TrialKind.SHIFT else 0


@dataclass(frozen=True)
class Measured:
    """What a trial found.

    Attributes:
        trial: The trial.
        rates: Payload of each of its transfers while all of them ran, bits a second.
        spread: The largest sum of the rates that was measured less the smallest, over their median.
    """

    trial: ProbeTrial
    rates: tuple[float, ...]
    spread: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML; rates in bits a second."""
        return {
            "kind": self.trial.kind.value,
            "transfers": [list(transfer) for transfer in self.trial.transfers],
            "rates": [round(float(f"{rate:.4g}")) for rate in self.rates],
            "spread": round(self.spread, 3),
        }


@dataclass(frozen=True)
class Figures:
    """All that was measured of a world.

    Attributes:
        ranks: Number of ranks.
        figures: One for each trial.
        latencies: Pairs of ranks, and seconds that a message of a few bytes took from one to the other.
        places: The host of each rank, where that is known.
    """

    ranks: int
    figures: tuple[Measured, ...]
    latencies: tuple[tuple[Transfer, float], ...] = ()
    places: tuple[str, ...] = ()

    @cached_property
    def alone(self) -> dict[Transfer, float]:
        """The rate of each pair that was measured alone, one way."""
        return {f.trial.transfers[0]: f.rates[0] for f in self.figures if f.trial.kind is TrialKind.ONE_WAY}

    @cached_property
    def noise(self) -> float:
        """By how much measurements of the same differ, the median of all trials, over their size."""
        return median(figure.spread for figure in self.figures) if self.figures else 0.0

    @cached_property
    def duplex(self) -> float:
        """What two ranks send each other at once, over what they send one after the other: 1 on full-duplex links."""
        shares = [
            sum(figure.rates) / sum(self.alone[transfer] for transfer in figure.trial.transfers)
            for figure in self.figures
            if figure.trial.kind is TrialKind.BOTH_WAYS and all(t in self.alone for t in figure.trial.transfers)
        ]
        return median(shares) if shares else 1.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML; rates in bits a second, latencies in seconds."""
        return {
            "ranks": self.ranks,
            "noise": round(self.noise, 3),
            "both_ways_over_one_way": round(self.duplex, 3),
            "latencies": [{"between": list(pair), "seconds": float(f"{s:.3g}")} for pair, s in self.latencies],
            "figures": [figure.to_dict() for figure in self.figures],
        }


def trials_for(ranks: int, *, quick: bool = False) -> tuple[ProbeTrial, ...]:
    """What to measure of a world, pairs by themselves first.

    Args:
        ranks: Number of ranks. Of more than :data:`SAMPLED_ABOVE` each has a few partners, near and far.
        quick: Both ways between neighbours only, and fewer sets.
    """
    pairs = _pairs(ranks)
    together = [pair for pair in pairs if not quick or pair[1] - pair[0] in {1, ranks - 1}]
    trials = [ProbeTrial(TrialKind.ONE_WAY, (way,)) for pair in pairs for way in (pair, pair[::-1])]
    trials += [ProbeTrial(TrialKind.BOTH_WAYS, (pair, pair[::-1])) for pair in together]
    if ranks > 2:
        ends = range(ranks) if ranks <= SAMPLED_ABOVE and not quick else _spaced(range(ranks), 4)
        trials += [ProbeTrial(TrialKind.ONE_TO_ALL, tuple((r, o) for o in range(ranks) if o != r)) for r in ends]
        trials += [ProbeTrial(TrialKind.ALL_TO_ONE, tuple((o, r) for o in range(ranks) if o != r)) for r in ends]
        distances = range(1, ranks) if not quick else _spaced(range(1, ranks), 4)
        shifts = distances if ranks <= SAMPLED_ABOVE else sorted({d % ranks for _, d in _pairs(ranks)} - {0})
        trials += [ProbeTrial(TrialKind.SHIFT, tuple((r, (r + d) % ranks) for r in range(ranks))) for d in shifts]
        if ranks <= SAMPLED_ABOVE:
            trials.append(ProbeTrial(TrialKind.ALL, tuple(permutations(range(ranks), 2))))
    return tuple(trials)


def suspected_trials(ranks: int) -> tuple[ProbeTrial, ...]:
    """Pairs that show, by sharing a link or not, in which order hosts stand in a ring; empty of too many ranks.

    Two transfers of rank 0 share a link when they set out in the same direction. What x sends to y shares one with what
    0 sends to y when x is on the way.
    """
    if not 3 < ranks <= _MOST_SUSPECTS:
        return ()
    others = range(1, ranks)
    same_side = [((0, a), (0, b)) for a, b in combinations(others, 2)]
    on_the_way = [((0, y), (x, y)) for x, y in permutations(others, 2)]
    return tuple(ProbeTrial(TrialKind.SUSPECTED, pair) for pair in [*same_side, *on_the_way])


def _pairs(ranks: int) -> list[Transfer]:
    if ranks <= SAMPLED_ABOVE:
        return list(combinations(range(ranks), 2))
    # Neighbours, so that every rank of a node is tied to the next, and ranks at distances that grow.
    distances = {max(1, round(ranks / 2 ** (step + 1))) for step in range(_PARTNERS)} | {1}
    ways = [(r, (r + d) % ranks) for r in range(ranks) for d in distances]
    return sorted({(min(way), max(way)) for way in ways})


def _spaced(values: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of them, evenly spaced."""
    if len(values) <= count:
        return list(values)
    return [values[index * len(values) // count] for index in range(count)]
