"""A sweep in words: who was fastest at each problem, by how much, and what to be careful with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenring_xdit.bench.records import Record, Status
from tokenring_xdit.bench.report.measures import BASELINE, Value, call_time, speed_up
from tokenring_xdit.bench.report.palette import is_token_ring, label
from tokenring_xdit.bench.report.problems import Setting, latest, machines, problem_of

__all__ = ["Summary", "Winner", "summary"]

_SINGLE = "single"
_BUSY = 0.5  # load average from which on a machine had company
_SLOW_NETWORK = 0.95  # a stated rate's share above which no note is needed


@dataclass(frozen=True)
class Winner:
    """The fastest strategy at a problem, one rank alone not counted.

    Attributes:
        setting: Setting of the problem.
        ranks: Ranks of the problem.
        tokens: Tokens of the problem.
        strategy: The fastest.
        time: Its seconds.
        speed_up: Over xfuser's Ring, where that ran and is not itself the fastest.
        token_ring: The speed-up of TokenRing, the fastest of its variants.
        ties: Strategies that noise does not tell apart from the fastest: their quartiles overlap.
        beaten_by_one: Whether one rank alone was faster still.
    """

    setting: Setting
    ranks: int
    tokens: int
    strategy: str
    time: Value
    speed_up: float | None
    token_ring: float | None
    ties: tuple[str, ...]
    beaten_by_one: bool


@dataclass(frozen=True)
class Summary:
    """What to know before looking at plots.

    Attributes:
        counts: Cases of each status.
        winners: The problems at which anything ran.
        sentences: The sweep in words.
        cautions: What makes its figures doubtful.
    """

    counts: dict[Status, int]
    winners: tuple[Winner, ...]
    sentences: tuple[str, ...]
    cautions: tuple[str, ...]


def summary(records: Sequence[Record]) -> Summary:
    """Sum up a sweep.

    Args:
        records: All of a file, cases that it has twice included.
    """
    once = latest(records)
    counted = Counter(record.status for record in once)
    winners = _winners(once)
    return Summary(
        {status: counted[status] for status in Status},
        winners,
        (*_token_ring(winners), *_fastest(winners), *_alone(winners)),
        tuple(_cautions(records, once, winners)),
    )


def _winners(records: Sequence[Record]) -> tuple[Winner, ...]:
    known = machines(records)
    problems: dict[tuple[Setting, int, int], dict[str, Record]] = {}
    for record in records:
        if call_time(record) is not None:
            problems.setdefault(problem_of(record, known), {})[record.strategy] = record
    found = []
    for (setting, ranks, tokens), ran in problems.items():
        times = {name: time for name, record in ran.items() if (time := call_time(record)) is not None}
        alone = times.pop(_SINGLE, None)
        if not times:
            continue
        best = min(times, key=lambda name: times[name].middle)
        speeds = {name: value.middle for name in times if (value := speed_up(ran[name], ran.get(BASELINE)))}
        found.append(
            Winner(
                setting,
                ranks,
                tokens,
                best,
                times[best],
                speeds.get(best) if best != BASELINE else None,
                max((speed for name, speed in speeds.items() if is_token_ring(name)), default=None),
                tuple(name for name, time in times.items() if name != best and _overlap(times[best], time)),
                alone is not None and alone.middle < times[best].middle,
            )
        )
    return tuple(sorted(found, key=lambda winner: (winner.setting, winner.ranks, winner.tokens)))


def _overlap(fastest: Value, other: Value) -> bool:
    return fastest.upper is None or other.lower is None or other.lower <= fastest.upper


def _token_ring(winners: Sequence[Winner]) -> list[str]:
    speeds = [winner.token_ring for winner in winners if winner.token_ring is not None]
    if not speeds:
        return []
    least, most = f"{min(speeds):.2f}", f"{max(speeds):.2f}"
    span = f"{least} times" if least == most else f"{least} to {most} times"
    return [f"TokenRing was {span} as fast as xfuser's Ring{_over(len(speeds))}."]


def _fastest(winners: Sequence[Winner]) -> list[str]:
    counted = Counter(winner.strategy for winner in winners).most_common()
    if not counted:
        return []
    if len(winners) == 1:
        winner = winners[0]
        speed = f", {winner.speed_up:.2f} times as fast as xfuser's Ring" if winner.speed_up is not None else ""
        return [f"{label(winner.strategy)} was the fastest{speed}."]
    shares = ", ".join(f"{label(strategy)} in {count}" for strategy, count in counted)
    return [f"Fastest of {len(winners)} problems: {shares}."]


def _alone(winners: Sequence[Winner]) -> list[str]:
    beaten = sum(winner.beaten_by_one for winner in winners)
    if not beaten:
        return []
    return [f"One rank alone (single) was faster than all of them{_over(beaten, len(winners))}."]


def _over(count: int, total: int | None = None) -> str:
    if total is not None and total > 1:
        return f" in {count} of {total} problems"
    return f", over {count} problems" if count > 1 and total is None else ""


def _cautions(records: Sequence[Record], once: Sequence[Record], winners: Sequence[Winner]) -> list[str]:
    found = []
    tied = sum(bool(winner.ties) for winner in winners)
    if tied:
        of = f"In {tied} of {len(winners)} problems" if len(winners) > 1 else "Here"
        found.append(f"{of} the fastest and others have overlapping quartiles: their order is within noise.")
    loads = [record.load_at_start for record in once if record.load_at_start is not None]
    if max(loads, default=0.0) > _BUSY:
        found.append(
            f"Other programs ran on the machine: its load average was up to {max(loads):.1f} before the start."
        )
    shares = [record.network_share for record in once if record.network_share is not None]
    if min(shares, default=1.0) < _SLOW_NETWORK:
        found.append(f"The slowest link of the network reached {min(shares):.0%} of its stated rate in the self-test.")
    rounds = [record.rounds for record in once if record.status is Status.OK]
    if min(rounds, default=9) < 3:
        found.append(f"{min(rounds)} rounds are too few to judge noise.")
    if len(records) > len(once):
        found.append(f"{len(records) - len(once)} records are of a case that comes again later: the last one counts.")
    if len(machines(once)) > 1:
        found.append(f"The records come from {len(machines(once))} machines, each of which has plots of its own.")
    for name in ("torch", "xfuser", "tokenring-xdit"):
        versions = {str(record.machine[name]) for record in once if record.machine.get(name)}
        if len(versions) > 1:
            found.append(f"Records are of different versions of {name}: {', '.join(sorted(versions))}.")
    return found
