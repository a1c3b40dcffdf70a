"""Which strategy to take: every legal split of ranks, timed by simulation, and why the others are not legal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.planning.cost import Cost
from tokenring_xdit.planning.memory import gathered_memory, schedule_memory, ulysses_memory
from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.planning.programs import Inside, gathered, of_schedule, shared_heads, ulysses
from tokenring_xdit.planning.simulate import Simulation, run
from tokenring_xdit.schedule import Spelled, VerifiedSchedule, build, options_of, parse
from tokenring_xdit.topology import Network

__all__ = ["Option", "Split", "best_schedules", "plan"]

_CHUNKS = (2, 4, 8)
_PROMISING = 3
"""Of the schedules in whole blocks, those that are worth trying in pieces."""

_INSIDE = ("bidirectional", "bidirectional_q", "direct", "direct_kv", "ring", "token_ring")
"""Schedules that can run inside a node, too."""
_ALONE = (*_INSIDE, "heads", "heads:peers=1")
_ALONE_OF_MANY = ("ring", "token_ring")
_AS_FAST = 0.05
"""Differences that a simulation cannot tell. What sends less turned out faster then: there is less to go wrong."""
_MANY_RANKS = 64
"""With more, schedules whose transfers all go on at once take minutes to simulate."""


@dataclass(frozen=True)
class Split:
    """How ranks are divided.

    Attributes:
        ulysses: Ranks that share heads.
        tokenring: Ranks of a node that run a schedule; 1 where none does.
        ring: xfuser's ring degree: alone its own Ring, with ``tokenring`` the nodes.
        schedule: What the TokenRing ranks run, as ``--tokenring_schedule`` takes it; empty without them.
    """

    ulysses: int = 1
    tokenring: int = 1
    ring: int = 1
    schedule: str = ""

    @property
    def flags(self) -> str:
        """What to tell ``xdit``."""
        degrees = (("ulysses", self.ulysses), ("tokenring", self.tokenring), ("ring", self.ring))
        flags = [f"--{name}_degree {degree}" for name, degree in degrees if degree > 1]
        return " ".join([*flags, *([f"--tokenring_schedule {self.schedule}"] if self.schedule else [])])

    def __str__(self) -> str:
        parts = [f"ulysses {self.ulysses}"] if self.ulysses > 1 else []
        if self.tokenring > 1:
            parts.append(f"{self.schedule} {self.tokenring}")
        if self.ring > 1:
            parts.append(f"{'nodes' if self.tokenring > 1 else 'ring'} {self.ring}")
        return " x ".join(parts) or "one rank"


@dataclass(frozen=True)
class Option:
    """A split and what comes of it.

    Attributes:
        split: The split.
        seconds: Of one attention call, simulated; ``None`` where the split is not legal.
        exposed: Seconds of it in which nothing hides communication.
        sent: Bytes that a rank sends, at most.
        messages: Messages that a rank sends, at most.
        memory: Bytes that a rank holds beside its inputs, at most.
        refusal: Why the split is not legal.
    """

    split: Split
    seconds: float | None = None
    exposed: float | None = None
    sent: int | None = None
    messages: int | None = None
    memory: int | None = None
    refusal: str | None = None


def plan(
    problem: Problem,
    network: Network,
    cost: Cost,
    *,
    on_split: Callable[[int, int, Split], None] = lambda done, total, split: None,
) -> tuple[Option, ...]:
    """Every split of the problem's ranks, legal ones by time, then the others.

    Ahead of all comes the one to take: of those that are as fast as any, to within the simulation's error, the one that
    sends least, in the fewest messages.

    Args:
        problem: The attention call.
        network: Rank ``r`` is at its ``r``-th host.
        cost: The machine.
        on_split: Told how many splits were tried, of how many, and which comes next.

    Raises:
        ConfigurationError: The network has too few hosts.
    """
    if len(network.hosts) < problem.ranks:
        raise ConfigurationError(
            f"{problem.ranks} ranks do not fit into network '{network.name}', which has {len(network.hosts)} hosts"
        )
    options: list[Option] = []
    splits = tuple(_splits(problem.ranks))
    for done, split in enumerate(splits):
        on_split(done, len(splits), split)
        options += _options(split, problem, network, cost)
    return _ranked(options)


def _splits(ranks: int) -> Iterator[Split]:
    """All degrees whose product is the number of ranks, with the schedule left open."""
    for u in (d for d in range(1, ranks + 1) if ranks % d == 0):
        inner = ranks // u
        for t in (d for d in range(1, inner + 1) if inner % d == 0):
            yield Split(u, t, inner // t)


def _options(split: Split, problem: Problem, network: Network, cost: Cost) -> Iterator[Option]:
    refusal = _refusal(split, problem)
    if refusal is not None:
        yield Option(split, refusal=refusal)
    elif split.tokenring == 1:
        yield _upstream(split, problem, network, cost)
    else:
        yield from _scheduled(split, problem, network, cost)


def _refusal(split: Split, problem: Problem) -> str | None:
    u = split.ulysses
    if u > 1 and (problem.heads % u or problem.kv_heads % u):
        heads = f"{problem.heads} heads" if problem.heads == problem.kv_heads else f"{problem.kv_heads} key heads"
        return f"Ulysses shares out heads, and {heads} do not divide by {u}"
    if split.tokenring == 1 and problem.ranks > 1 and len(set(problem.kv_lengths)) > 1:
        return (
            f"xfuser's {'Ring' if split.ring > 1 else 'Ulysses'} needs equal shards, and these tokens do not divide by "
            f"{problem.ranks} ranks"
        )
    return None


def _upstream(split: Split, problem: Problem, network: Network, cost: Cost) -> Option:
    """Ulysses, Ring, or both, without anything of ours."""
    if split.ulysses == 1 and split.ring > 1:
        programs, memory = gathered(problem, cost), gathered_memory(problem)
    elif split.ring == 1:
        programs = ulysses(split.ulysses, build("ring", 1).schedule, problem, cost)
        memory = ulysses_memory(problem, split.ulysses)
    else:
        programs = ulysses(split.ulysses, Inside.GATHERED, problem, cost)
        memory = ulysses_memory(problem, split.ulysses) + gathered_memory(shared_heads(problem, split.ulysses))
    return _timed(split, run(str(split), programs, network, cost), memory)


def _scheduled(split: Split, problem: Problem, network: Network, cost: Cost) -> tuple[Option, ...]:
    inner = shared_heads(problem, split.ulysses)

    def timed(name: Spelled, verified: VerifiedSchedule) -> Option:
        schedule = verified.schedule
        flagged = replace(split, schedule=_as_flag(name))
        memory = schedule_memory(schedule, inner)
        if split.ulysses > 1:
            memory += ulysses_memory(problem, split.ulysses)
            programs = ulysses(split.ulysses, schedule, problem, cost)
        else:
            programs = of_schedule(schedule, problem, cost)
        return _timed(flagged, run(str(flagged), programs, network, cost), memory)

    return _tried(_candidates(inner.ranks, split.ring), inner, timed)


def best_schedules(
    problem: Problem,
    network: Network,
    cost: Cost,
    *,
    nodes: int = 1,
    keys_stay_whole: bool = False,
    causal: bool = False,
) -> tuple[Option, ...]:
    """Every schedule for ranks that are not divided any further, in the order of :func:`plan`.

    Args:
        problem: The attention call.
        network: Rank ``r`` is at its ``r``-th host.
        cost: The machine.
        nodes: Nodes with a ring of keys between them; 1 without.
        keys_stay_whole: Whether only schedules will do that leave keys at home in one piece.
        causal: Whether a query sees the keys before it only.
    """
    split = Split(tokenring=problem.ranks // nodes, ring=nodes)
    names = _candidates(problem.ranks, nodes)
    if nodes == 1:
        names += _grids(problem.ranks)

    def timed(name: Spelled, verified: VerifiedSchedule) -> Option:
        programs = of_schedule(verified.schedule, problem, cost)
        memory = schedule_memory(verified.schedule, problem)
        return _timed(replace(split, schedule=str(name)), run(str(name), programs, network, cost), memory)

    return _ranked(_tried(names, problem, timed, keys_stay_whole=keys_stay_whole, causal=causal))


def _tried(
    names: tuple[Spelled, ...],
    problem: Problem,
    timed: Callable[[Spelled, VerifiedSchedule], Option],
    *,
    keys_stay_whole: bool = False,
    causal: bool = False,
) -> tuple[Option, ...]:
    """All schedules in whole blocks, and the most promising in pieces."""

    def keeps(verified: VerifiedSchedule) -> bool:
        fits = verified.takes_heads(problem.heads, problem.kv_heads)
        return fits and (verified.keys_stay_whole or not keys_stay_whole)

    def times(names: Sequence[Spelled]) -> dict[Spelled, Option]:
        built = {
            name: build(str(name), problem.ranks, heads=math.gcd(problem.heads, problem.kv_heads)) for name in names
        }
        return {n: timed(n, v) for n, v in built.items() if keeps(v)}

    whole = times(names)
    best = sorted(whole, key=lambda name: _time(whole[name]))[:_PROMISING]
    pieces = [Spelled(n.name, tuple(sorted((*n.options, ("chunks", count))))) for n in best for count in _CHUNKS]
    return (*whole.values(), *times(pieces if problem.ranks <= _MANY_RANKS else ()).values())


def _candidates(ranks: int, nodes: int) -> tuple[Spelled, ...]:
    """Schedules that differ for so many ranks, in whole blocks."""
    if nodes > 1:
        inside = options_of("hierarchical")["inside"]
        names = [name for name in _INSIDE if ranks > nodes or name == inside]
        return tuple(parse(f"hierarchical:inside={name},nodes={nodes}") for name in names)
    names = list(_ALONE if ranks <= _MANY_RANKS else _ALONE_OF_MANY)
    if any(ranks % rows == 0 for rows in range(2, ranks)):  # a grid of one row is a ring
        names.append("mesh")
    return tuple(parse(name) for name in names)


def _grids(ranks: int) -> tuple[Spelled, ...]:
    """Plans for groups of consecutive ranks, which may share faster wires, in other numbers than ``mesh`` chooses."""
    counts = [nodes for nodes in range(2, ranks // 2 + 1) if ranks % nodes == 0]
    return tuple(
        parse(f"hierarchical:inside={inside},nodes={nodes}") for nodes in counts for inside in ("direct", "token_ring")
    )


def _as_flag(name: Spelled) -> str:
    """What ``--tokenring_schedule`` says: between nodes it names what runs inside one."""
    if name.name != "hierarchical":
        return str(name)
    options = dict(name.options)
    inside = options.pop("inside", options_of("hierarchical")["inside"])
    options.pop("nodes", None)
    return str(Spelled(str(inside), tuple(sorted(options.items()))))


def _timed(split: Split, simulation: Simulation, memory: int) -> Option:
    sent, messages = max(simulation.sent), max(simulation.messages)
    return Option(split, simulation.makespan, simulation.exposed, sent, messages, memory)


def _ranked(options: Sequence[Option]) -> tuple[Option, ...]:
    """By time, but the one to take first; see :func:`plan`."""
    by_time = sorted(options, key=_time)
    limit = _time(by_time[0])[0] * (1 + _AS_FAST)
    best = min(
        (o for o in by_time if _time(o)[0] <= limit), key=lambda option: (option.sent or 0, option.messages or 0)
    )
    return (best, *(option for option in by_time if option is not best))


def _time(option: Option) -> tuple[float, str]:
    return (float("inf") if option.seconds is None else option.seconds), str(option.split)
