"""Which strategy to take: every legal split of ranks, timed by simulation, and why the others are not legal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.planning.cost import Cost
from tokenring_xdit.planning.memory import gathered_memory, repeated_memory, schedule_memory, ulysses_memory
from tokenring_xdit.planning.options import Option, Split, ranked_schedules, ranked_splits, seconds_of
from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.planning.programs import Inside, gathered, of_schedule, shared_heads, ulysses
from tokenring_xdit.planning.simulate import Simulation, run
from tokenring_xdit.schedule import Mask, Spelled, VerifiedSchedule, build, options_of, parse, q_block
from tokenring_xdit.topology import Network

__all__ = ["best_schedules", "plan"]

_CHUNKS = (2, 4, 8)
_PROMISING = 3
"""Of the schedules of a split in whole blocks, those that may be worth trying in pieces."""

_INSIDE = ("bidirectional", "bidirectional_q", "direct", "direct_kv", "ring", "token_ring")
"""Schedules that can run inside a node, too."""
_BY_HEADS = ("heads", "heads:peers=1")
_ALONE_OF_MANY = ("ring", "token_ring")
_MANY_RANKS = 64
"""With more, schedules whose transfers all go on at once take minutes to simulate."""


def plan(
    problem: Problem,
    topology: Network,
    cost: Cost,
    *,
    xfuser_ring: bool = True,
    on_split: Callable[[int, int, Split], None] = lambda done, total, split: None,
) -> tuple[Option, ...]:
    """Every split of the problem's ranks and one rank alone, legal ones by time, then the others.

    Ahead of all comes the one to take, which says why: of those that are as fast as any, to within the simulation's
    error (:data:`~tokenring_xdit.planning.options.TIE`), the one with the fewest flags, then the least memory, then the
    fewest bytes.

    Args:
        problem: The attention call.
        topology: Rank ``r`` is at its ``r``-th host.
        cost: The machine.
        xfuser_ring: Whether xfuser takes the model over its own Ring.
        on_split: Told how many splits were tried, of how many, and which comes next.

    Raises:
        ConfigurationError: The topology has too few hosts.
    """
    if len(topology.hosts) < problem.ranks:
        raise ConfigurationError(
            f"{problem.ranks} ranks do not fit topology '{topology.name}', which has {len(topology.hosts)} hosts"
        )
    splits = tuple(_splits(problem.ranks)) if problem.ranks > 1 else ()
    options = [_alone(problem, topology, cost)]
    tried: list[tuple[_Setting, list[_Trial]]] = []
    for done, split in enumerate(splits):
        on_split(done, len(splits), split)
        refusal = _refusal(split, problem, xfuser_ring)
        if refusal is not None:
            options.append(Option(split, refusal=refusal))
        elif split.tokenring == 1:
            options.append(_upstream(split, problem, topology, cost))
        else:
            setting = _Setting(split, problem, topology, cost, spell=_as_flag)
            tried.append((setting, setting.trials(setting.whole())))
    options += (trial.option for _, trials in tried for trial in trials)
    fastest = min(map(seconds_of, options))
    pieces = [(setting, setting.worth_cutting(trials, fastest)) for setting, trials in tried]
    pieces = [(setting, names) for setting, names in pieces if names]
    for done, (setting, names) in enumerate(pieces, len(splits)):
        on_split(done, len(splits) + len(pieces), setting.split)
        options += (trial.option for trial in setting.trials(_cut(names)))
    return ranked_splits(options)


def _splits(ranks: int) -> Iterator[Split]:
    """All degrees whose product is the number of ranks, with the schedule left open."""
    for u in (d for d in range(1, ranks + 1) if ranks % d == 0):
        inner = ranks // u
        for t in (d for d in range(1, inner + 1) if inner % d == 0):
            yield Split(u, t, inner // t)


def _refusal(split: Split, problem: Problem, xfuser_ring: bool) -> str | None:
    u = split.ulysses
    if split.tokenring == 1 and split.ring > 1 and not xfuser_ring:
        return "xfuser refuses this model over its Ring"
    if u > 1 and (problem.heads % u or problem.kv_heads % u):
        heads = f"{problem.heads} heads" if problem.heads == problem.kv_heads else f"{problem.kv_heads} key heads"
        return f"Ulysses shares out heads, and {heads} do not divide by {u}"
    uneven = [
        name
        for name, lengths in (("queries", problem.q_lengths), ("keys", problem.kv_lengths))
        if len(set(lengths)) > 1
    ]
    if split.tokenring == 1 and uneven:
        return (
            f"xfuser's {'Ring' if split.ring > 1 else 'Ulysses'} needs equal shards, and these {' and '.join(uneven)} "
            f"do not divide by {problem.ranks} ranks"
        )
    return None


def _alone(problem: Problem, topology: Network, cost: Cost) -> Option:
    """The whole call on one rank: one call of the kernel, which holds its output."""
    whole = Problem(
        (sum(problem.q_lengths),),
        (sum(problem.kv_lengths),),
        problem.heads,
        problem.kv_heads,
        problem.head_dim,
        problem.batch,
        problem.element_bytes,
        problem.partial_bytes,
    )
    split = Split()
    return _timed(
        split, run(str(split), ulysses(1, Inside.GATHERED, whole, cost), topology, cost), whole.size(q_block(0))
    )


def _upstream(split: Split, problem: Problem, topology: Network, cost: Cost) -> Option:
    """Ulysses, Ring, or both, without anything of ours."""
    if split.ulysses == 1 and split.ring > 1:
        programs, memory = gathered(problem, cost), gathered_memory(problem)
    else:
        programs = ulysses(split.ulysses, Inside.GATHERED, problem, cost)
        inner = shared_heads(problem, split.ulysses)
        memory = ulysses_memory(problem, split.ulysses)
        memory += gathered_memory(inner) if split.ring > 1 else repeated_memory(inner)
    return _timed(split, run(str(split), programs, topology, cost), memory)


@dataclass(frozen=True)
class _Trial:
    """A schedule that was timed.

    Attributes:
        name: The schedule.
        option: What came of it.
        floor: Seconds that it does not get under in pieces either: the same works and transfers.
    """

    name: Spelled
    option: Option
    floor: float


@dataclass(frozen=True)
class _Setting:
    """In what schedules are timed.

    Attributes:
        split: With the schedule left open.
        problem: The call, of all ranks.
        topology: Rank ``r`` is at its ``r``-th host.
        cost: The machine.
        spell: What a split calls a schedule.
        mask: Which keys a query sees.
        keys_stay_whole: Whether only schedules will do that leave keys at home in one piece.
    """

    split: Split
    problem: Problem
    topology: Network
    cost: Cost
    spell: Callable[[Spelled], str]
    mask: Mask = Mask.FULL
    keys_stay_whole: bool = False

    @cached_property
    def inner(self) -> Problem:
        """What is left to a schedule inside Ulysses."""
        return shared_heads(self.problem, self.split.ulysses)

    @property
    def heads(self) -> int:
        """What the numbers of query and key heads are multiples of."""
        return math.gcd(self.inner.heads, self.inner.kv_heads)

    def whole(self) -> tuple[Spelled, ...]:
        """Schedules that differ for this number of ranks, in whole blocks.

        Those that share out heads are left out where more than half of the ranks would have none.
        """
        ranks, nodes = self.inner.ranks, self.split.ring
        alone = _INSIDE if ranks // nodes <= _MANY_RANKS else _ALONE_OF_MANY
        if nodes > 1:
            inside = options_of("hierarchical")["inside"]
            names = [name for name in alone if ranks > nodes or name == inside]
            return tuple(parse(f"hierarchical:inside={name},nodes={nodes}") for name in names)
        names = list(alone)
        if ranks <= min(2 * self.heads, _MANY_RANKS):
            names += _BY_HEADS
        if any(ranks % rows == 0 for rows in range(2, ranks)):  # a grid of one row is a ring
            names.append("mesh")
        return tuple(parse(name) for name in names)

    def trials(self, names: Sequence[Spelled]) -> list[_Trial]:
        """Time those that will do."""
        built = [(name, build(str(name), self.inner.ranks, self.mask, self.heads)) for name in names]
        return [self._trial(name, verified) for name, verified in built if self._does(verified)]

    def worth_cutting(self, trials: Sequence[_Trial], fastest: float) -> list[Spelled]:
        """The most promising of those that could take less time in pieces than the fastest of all in whole blocks."""
        best = sorted(trials, key=lambda trial: (seconds_of(trial.option), str(trial.option.split)))[:_PROMISING]
        few = self.inner.ranks <= _MANY_RANKS
        return [trial.name for trial in best if few and trial.floor < fastest]

    def _does(self, verified: VerifiedSchedule) -> bool:
        fits = verified.takes_heads(self.inner.heads, self.inner.kv_heads)
        return fits and (verified.keys_stay_whole or not self.keys_stay_whole)

    def _trial(self, name: Spelled, verified: VerifiedSchedule) -> _Trial:
        schedule, degree = verified.schedule, self.split.ulysses
        split = replace(self.split, schedule=self.spell(name))
        memory = schedule_memory(schedule, self.inner)
        if degree > 1:
            memory += ulysses_memory(self.problem, degree)
            programs = ulysses(degree, schedule, self.problem, self.cost)
        else:
            programs = of_schedule(schedule, self.problem, self.cost)
        simulation = run(str(split), programs, self.topology, self.cost)
        return _Trial(name, _timed(split, simulation, memory), simulation.floor)


def best_schedules(
    problem: Problem,
    topology: Network,
    cost: Cost,
    *,
    nodes: int = 1,
    mask: Mask = Mask.FULL,
    keys_stay_whole: bool = False,
) -> tuple[Option, ...]:
    """Every schedule for ranks that are not divided any further, in the order of :func:`plan`.

    Args:
        problem: The attention call.
        topology: Rank ``r`` is at its ``r``-th host.
        cost: The machine.
        nodes: Nodes with a ring of keys between them; 1 without.
        mask: Which keys a query sees.
        keys_stay_whole: Whether only schedules will do that leave keys at home in one piece.
    """
    split = Split(tokenring=problem.ranks // nodes, ring=nodes)
    setting = _Setting(split, problem, topology, cost, str, mask, keys_stay_whole)
    names = setting.whole()
    if nodes == 1:
        names += _grids(problem.ranks)
    whole = setting.trials(names)
    fastest = min((seconds_of(trial.option) for trial in whole), default=math.inf)
    pieces = setting.trials(_cut(setting.worth_cutting(whole, fastest)))
    return ranked_schedules([trial.option for trial in (*whole, *pieces)])


def _cut(names: Sequence[Spelled]) -> list[Spelled]:
    return [Spelled(n.name, tuple(sorted((*n.options, ("chunks", count))))) for n in names for count in _CHUNKS]


def _grids(ranks: int) -> tuple[Spelled, ...]:
    """Plans for groups of consecutive ranks, which may share faster wires, in other numbers than ``mesh`` chooses."""
    counts = [nodes for nodes in range(2, ranks // 2 + 1) if ranks % nodes == 0]
    return tuple(
        parse(f"hierarchical:inside={inside},nodes={nodes}")
        for nodes in counts
        for inside in ("direct", "token_ring")
        if inside in _ALONE_OF_MANY or ranks // nodes <= _MANY_RANKS
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
    return Option(split, simulation.makespan, simulation.launch, simulation.exposed, sent, messages, memory)
