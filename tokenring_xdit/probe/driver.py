"""Decides what is measured, how long and how often, and makes rates of the times at which messages arrived."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

from tokenring_xdit.errors import NetworkError
from tokenring_xdit.probe.commands import Describe, Description, OneWay, Ping, SendMessages
from tokenring_xdit.probe.figures import (
    Figures,
    Measured,
    ProbeTrial,
    Transfer,
    TrialKind,
    suspected_trials,
    trials_for,
)
from tokenring_xdit.probe.infer import MOST_NOISE, Inference, infer
from tokenring_xdit.workers.pool import Pool

__all__ = ["SECONDS", "SECONDS_QUICK", "Probed", "probe", "steady_rates"]

SECONDS = 60.0
"""What a probe may take, about."""
SECONDS_QUICK = 15.0

_ROUNDS = 3
_MESSAGES = 12  # of a transfer; what comes between the first and the last counts
_LEAST_MESSAGE, _MOST_MESSAGE = 1 << 12, 1 << 25  # bytes
_FIRST_MESSAGE = 1 << 14  # bytes, while nothing is known
_SHORTEST, _LONGEST = 0.08, 0.2  # seconds of a transfer that has its links for itself
_ENOUGH = 0.4  # of these seconds, else the size was guessed too small and the transfer is measured again
_LATE = 0.5  # of the time of the last message: where the first came later, its rank was late to notice
_TRIES = 6
_OVERHEAD = 0.02  # seconds that a command takes beside its transfers
_PINGS = 20
_UNSETTLED = 0.15  # trials that differ by more are measured again,
_AGAIN = 3  # times at most
_TIMEOUT = 300.0  # seconds for one command


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        figures: What was measured.
        inference: What it means.
        descriptions: Where each rank is.
        seconds: What it took.
    """

    figures: Figures
    inference: Inference
    descriptions: tuple[Description, ...]
    seconds: float


def probe(
    ranks: Pool,
    *,
    quick: bool = False,
    seconds: float | None = None,
    on_step: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Probed:
    """Measure what joins ranks.

    Args:
        ranks: Who carries out the commands.
        quick: Measure less.
        seconds: What it may take, about; :data:`SECONDS` or :data:`SECONDS_QUICK` by default. It decides how long each
            transfer lasts, within limits, so that many ranks or slow links take longer.
        on_step: Told how many commands were given, of how many, and what comes next.

    Raises:
        LaunchError: A rank failed or does not answer.
        NetworkError: A rank was too busy.
    """
    return _Probe(ranks, quick, seconds or (SECONDS_QUICK if quick else SECONDS), on_step).run()


def steady_rates(arrivals: Sequence[Sequence[float]], sizes: Sequence[int]) -> list[float]:
    """What each of several transfers carried while all of them ran.

    Args:
        arrivals: When the messages of each had arrived, in seconds.
        sizes: Bytes of a message of each.

    Returns:
        Bits a second from the first message of any of them until one of them is over, the same time for all: transfers
        that share a link do so unevenly, and only their sum tells what it carries.
    """
    begin, end = min(times[0] for times in arrivals), min(times[-1] for times in arrivals)
    return [
        8 * size * (_arrived(times, end) - _arrived(times, begin)) / max(end - begin, 1e-9)
        for times, size in zip(arrivals, sizes, strict=True)
    ]


def _arrived(times: Sequence[float], moment: float) -> float:
    """Messages that had arrived at a moment; of the one under way the part that its time makes up."""
    index = bisect_left(times, moment)
    before, after = times[index - 1] if index else 0.0, times[index]
    return index + (moment - before) / (after - before) if after > before else float(index)


class _Probe:
    def __init__(self, ranks: Pool, quick: bool, seconds: float, on_step: Callable[[int, int, str], None]) -> None:
        self._ranks, self._seconds, self._on_step = ranks, seconds, on_step
        self._trials = list(trials_for(ranks.ranks, quick=quick))
        self._known: dict[Transfer, list[float]] = defaultdict(list)  # bits a second of what was measured alone
        self._samples: dict[ProbeTrial, list[list[float]]] = defaultdict(list)
        alone = [trial.transfers[0] for trial in self._trials if trial.kind is TrialKind.ONE_WAY]
        self._pairs = sorted({(min(transfer), max(transfer)) for transfer in alone})
        self._done, self._total = 0, len(self._pairs) + _ROUNDS * len(self._trials)
        weights = sum(math.sqrt(_fan(trial)) for trial in self._trials)
        spare = seconds / _ROUNDS - _OVERHEAD * len(self._trials)
        self._duration = min(_LONGEST, max(_SHORTEST, spare / weights))

    def run(self) -> Probed:
        start = time.monotonic()
        self._on_step(0, self._total, "starting ranks")
        descriptions = tuple(self._ranks.ask(Describe(), _TIMEOUT))
        latencies = tuple((pair, self._ping(pair)) for pair in self._pairs)
        self._rounds_of(self._trials, _ROUNDS)
        self._settle(start)
        figures = self._figures(latencies, descriptions)
        inference = infer(figures)
        suspected = suspected_trials(self._ranks.ranks)
        if inference.network is None and figures.noise <= MOST_NOISE and suspected:
            self._total += _ROUNDS * len(suspected)
            self._rounds_of(suspected, _ROUNDS)
            figures = self._figures(latencies, descriptions)
            inference = infer(figures)
        return Probed(figures, inference, descriptions, time.monotonic() - start)

    def _rounds_of(self, trials: Sequence[ProbeTrial], rounds: int) -> None:
        # Round by round, so that what else goes on for a while does not fall on all measurements of one trial.
        for _ in range(rounds):
            for trial in trials:
                self._step(trial.kind.value)
                self._measure(trial)

    def _settle(self, start: float) -> None:
        """Measure trials again that differ, as long as there is time."""
        for _ in range(_AGAIN):
            unsettled = [trial for trial in self._trials if _spread(self._samples[trial]) > _UNSETTLED]
            self._total += len(unsettled)
            for trial in unsettled:
                self._step(f"again, {trial.kind.value}")
                if time.monotonic() - start < 2 * self._seconds:
                    self._measure(trial)

    def _measure(self, trial: ProbeTrial) -> None:
        duration = self._duration / math.sqrt(_fan(trial))
        for _ in range(_TRIES):
            sizes = tuple(self._message(transfer, duration) for transfer in trial.transfers)
            answers = self._ranks.ask(SendMessages(trial.transfers, sizes, _MESSAGES), _TIMEOUT)
            arrivals = [answers[d].seconds[index] for index, (_, d) in enumerate(trial.transfers)]
            if any(times[0] >= _LATE * times[-1] for times in arrivals):
                continue  # a rank that was not awake when its first message came, or any
            rates = steady_rates(arrivals, sizes)
            if trial.kind is not TrialKind.ONE_WAY:
                break
            transfer = trial.transfers[0]
            self._known[transfer].append(rates[0])
            short = arrivals[0][-1] < _ENOUGH * duration
            if not short or self._message(transfer, duration) <= sizes[0]:
                break
        else:
            for (_, destination), times in zip(trial.transfers, arrivals, strict=True):
                if times[-1] <= 0.0:
                    raise NetworkError(
                        f"rank {destination} was too busy to see messages come, {_TRIES} times in a row: measure again "
                        "when less runs on its machine"
                    )
            rates = [8 * size * len(times) / times[-1] for times, size in zip(arrivals, sizes, strict=True)]
        self._samples[trial].append(rates)

    def _message(self, transfer: Transfer, duration: float) -> int:
        """Bytes of a message, so that all of them take about this many seconds."""
        if not self._known:
            return _FIRST_MESSAGE
        rates = self._known[transfer] if transfer in self._known else chain(*self._known.values())
        return int(min(_MOST_MESSAGE, max(_LEAST_MESSAGE, median(rates) * duration / 8 / _MESSAGES)))

    def _ping(self, pair: Transfer) -> float:
        self._step("a few bytes to and fro")
        found: OneWay = self._ranks.ask(Ping(pair, _PINGS), _TIMEOUT)[pair[0]]
        return median(found.seconds)

    def _figures(self, latencies: tuple[tuple[Transfer, float], ...], descriptions: Sequence[Description]) -> Figures:
        figures = tuple(
            Measured(trial, tuple(median(rates) for rates in zip(*samples, strict=True)), _spread(samples))
            for trial, samples in self._samples.items()
        )
        return Figures(self._ranks.ranks, figures, latencies, tuple(found.place for found in descriptions))

    def _step(self, what: str) -> None:
        self._on_step(self._done, self._total, what)
        self._done += 1


def _fan(trial: ProbeTrial) -> int:
    """The most transfers of a trial that one rank sends or receives."""
    counts = [Counter(transfer[end] for transfer in trial.transfers) for end in (0, 1)]
    return max(max(count.values()) for count in counts)


def _spread(samples: Sequence[Sequence[float]]) -> float:
    """Twice the median distance of the sums of the rates from their median, over the median."""
    sums = [sum(rates) for rates in samples]
    middle = median(sums)
    return 2 * median(abs(value - middle) for value in sums) / middle
