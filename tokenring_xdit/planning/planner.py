"""Which strategy to take: every legal split of ranks, timed by simulation, and why the others are not legal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.planning.effects import NO_EFFECTS, Effects
from tokenring_xdit.planning.machine import Machine
from tokenring_xdit.planning.options import TIE, Option, ranked_schedules, ranked_splits, seconds_of
from tokenring_xdit.planning.others import Inside, gathered, shared_heads, ulysses
from tokenring_xdit.planning.simulate import Simulation, run
from tokenring_xdit.schedule import ALGORITHMS, Auto, Mask, ScheduleSpec, VerifiedSchedule, build, parse, q_block
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.program import KernelCall, MergeCall, RankProgram
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.topology import Network

__all__ = ["best_schedules", "plan", "split_seconds"]

_CHUNKS = (2, 4, 8)
_WIDTHS = (2, 4)
"""KernelCall calls that become one, besides all of them."""
_PROMISING = 3
"""Of the schedules of a split in whole blocks, those that may be worth trying in pieces."""

_FEW_RANKS = 16
"""With so many at most every schedule is simulated in its widest form, which takes seconds."""

_MANY_RANKS = 64
"""With more, schedules whose transfers all go on at once take minutes to simulate."""


def plan(
    problem: Problem,
    topology: Network,
    machine: Machine,
    effects: Effects = NO_EFFECTS,
    *,
    xfuser_ring: bool = True,
    on_split: Callable[[int, int, ParallelDims], None] = lambda done, total, split: None,
) -> tuple[Option, ...]:
    """Every split of the problem's ranks and one rank alone, legal ones by time, then the others.

    Ahead of all comes the one to take, which says why: of those that are as fast as any, to within the simulation's
    error (:data:`~tokenring_xdit.planning.options.TIE`), the one with the fewest flags, then the least memory, then the
    fewest bytes.

    Args:
        problem: The attention call.
        topology: Rank ``r`` is at its ``r``-th host.
        machine: Speeds of the ranks.
        effects: What else happens.
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
    options = [_alone(problem, topology, machine, effects)]
    tried: list[tuple[_Setting, list[_Trial]]] = []
    for done, split in enumerate(splits):
        on_split(done, len(splits), split)
        refusal = _refusal(split, problem, xfuser_ring)
        if refusal is not None:
            options.append(Option(split, refusal=refusal))
        elif split.tokenring == 1:
            options.append(_upstream(split, problem, topology, machine, effects))
        else:
            setting = _Setting(split, problem, topology, machine, effects)
            tried.append((setting, setting.trials(setting.whole())))
    options += (trial.option for _, trials in tried for trial in trials)
    fastest = min(map(seconds_of, options))
    forms = [(setting, setting.other_forms(trials, fastest)) for setting, trials in tried]
    forms = [(setting, names) for setting, names in forms if names]
    for done, (setting, names) in enumerate(forms, len(splits)):
        on_split(done, len(splits) + len(forms), setting.split)
        options += (trial.option for trial in setting.trials(names))
    return ranked_splits(options)


def split_seconds(problem: Problem, split: ParallelDims, topology: Network, machine: Machine) -> float | None:
    """Seconds of a call that is divided in one way; ``None`` where it cannot be, or takes minutes to simulate.

    Args:
        problem: The attention call, of as many ranks as the split has.
        split: How ranks are divided; ``auto`` is taken for the default schedule.
        topology: Rank ``r`` is at its ``r``-th host.
        machine: Speeds of the ranks.
    """
    if problem.ranks == 1:
        return _alone(problem, topology, machine, NO_EFFECTS).seconds
    if problem.ranks > _MANY_RANKS or _refusal(split, problem, xfuser_ring=True) is not None:
        return None
    if split.tokenring == 1:
        return _upstream(split, problem, topology, machine, NO_EFFECTS).seconds
    named = DEFAULT_SCHEDULE if Auto.parse(split.schedule) is not None else split.schedule
    trials = _Setting(split, problem, topology, machine, NO_EFFECTS).trials((parse(named).over_nodes(split.ring),))
    return trials[0].option.seconds if trials else None


def _splits(ranks: int) -> Iterator[ParallelDims]:
    """All degrees whose product is the number of ranks, with the schedule left open."""
    for u in (d for d in range(1, ranks + 1) if ranks % d == 0):
        inner = ranks // u
        for t in (d for d in range(1, inner + 1) if inner % d == 0):
            yield ParallelDims(u, t, inner // t)


def _refusal(split: ParallelDims, problem: Problem, xfuser_ring: bool) -> str | None:
    u = split.ulysses
    if split.tokenring == 1 and split.ring > 1 and not xfuser_ring:
        return "xfuser refuses this model over its Ring"
    if u > 1 and (problem.heads % u or problem.kv_heads % u):
        heads = f"{problem.heads} heads" if problem.heads == problem.kv_heads else f"{problem.kv_heads} key heads"
        return f"Ulysses divides heads, and {heads} do not divide by {u}"
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


def _alone(problem: Problem, topology: Network, machine: Machine, effects: Effects) -> Option:
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
    split = ParallelDims()
    alone = gathered(whole)
    return _option(split, run(str(split), alone, topology, machine, effects), whole.size(q_block(0)))


def _upstream(split: ParallelDims, problem: Problem, topology: Network, machine: Machine, effects: Effects) -> Option:
    """Ulysses, Ring, or both, without anything of ours."""
    if split.ulysses == 1 and split.ring > 1:
        programs = gathered(problem)
    else:
        programs = ulysses(split.ulysses, Inside.GATHERED, problem, in_order=machine.in_order)
    return _option(split, run(str(split), programs, topology, machine, effects), _memory(programs))


def _memory(programs: Sequence[RankProgram]) -> int:
    """Most bytes that any rank holds at once beside its inputs."""
    return max(program.peak for program in programs)


@dataclass(frozen=True)
class _Trial:
    """A schedule that was timed.

    Attributes:
        name: The schedule.
        option: What came of it.
        floor: Seconds that it does not get under in pieces either: the same works and transfers.
        overhead: Seconds of it, at most, that more than one kernel call and one merge cost however short they are.
    """

    name: ScheduleSpec
    option: Option
    floor: float
    overhead: float


@dataclass(frozen=True)
class _Setting:
    """In what schedules are timed.

    Attributes:
        split: Its schedule is left open.
        problem: The call, of all ranks.
        topology: Rank ``r`` is at its ``r``-th host.
        machine: Speeds of the ranks.
        effects: What else happens.
        keys_stay_whole: Whether to take only schedules that neither send nor split keys.
        until: When no further ones are timed, by ``time.monotonic``, where some were.
    """

    split: ParallelDims
    problem: Problem
    topology: Network
    machine: Machine
    effects: Effects
    keys_stay_whole: bool = False
    until: float = math.inf

    @cached_property
    def inner(self) -> Problem:
        """What is left to a schedule inside Ulysses."""
        return shared_heads(self.problem, self.split.ulysses)

    @property
    def heads(self) -> int:
        """What the numbers of query and key heads are multiples of."""
        return math.gcd(self.inner.heads, self.inner.kv_heads)

    def whole(self) -> tuple[ScheduleSpec, ...]:
        """Schedules for these nodes that are worth timing, in whole blocks."""
        ranks, nodes = self.inner.ranks, self.split.ring
        if nodes == 1:
            return self._worth(across_nodes=False)
        if ranks == nodes:  # one rank in each: all are the same
            return (parse(DEFAULT_SCHEDULE).over_nodes(nodes),)
        inside = (ScheduleSpec(name) for name, algorithm in ALGORITHMS.items() if algorithm.inside_nodes)
        return self._simulated_soon(name.over_nodes(nodes) for name in inside)

    def nodes_left_open(self) -> tuple[ScheduleSpec, ...]:
        """Schedules that tell nodes apart and are worth timing, each for the nodes that it says."""
        return self._worth(across_nodes=True)

    def _worth(self, *, across_nodes: bool) -> tuple[ScheduleSpec, ...]:
        return self._simulated_soon(
            parse(f"{name}:{options}" if options else name)
            for name, algorithm in ALGORITHMS.items()
            if self.split.mask in algorithm.masks and algorithm.across_nodes is across_nodes
            for options in algorithm.worth(self.inner.ranks, self.heads)
        )

    def _simulated_soon(self, names: Iterable[ScheduleSpec]) -> tuple[ScheduleSpec, ...]:
        found = []
        for name in names:
            inside, nodes = name.in_nodes()
            if self.inner.ranks // nodes <= _MANY_RANKS or inside.algorithm.many_ranks:
                found.append(name)
        return tuple(found)

    def trials(self, names: Sequence[ScheduleSpec]) -> list[_Trial]:
        """Time those that will do; where time is short those first that were made for the mask."""
        found: list[_Trial] = []
        hurried = self.until < math.inf
        for name in sorted(names, key=lambda name: name.algorithm.masks != {self.split.mask}) if hurried else names:
            if found and time.monotonic() >= self.until:
                break
            verified = build(str(name), self.inner.ranks, self.split.mask, self.heads)
            if self._does(verified):
                found.append(self._trial(name, verified))
        return found

    def other_forms(self, trials: Sequence[_Trial], fastest: float) -> list[ScheduleSpec]:
        """The most promising in pieces, or in wide calls, where that could take less time than the fastest of all.

        On few GPUs each in the widest form, in which options matter little: what that saves no bound foretells.
        """
        if self.inner.ranks > _MANY_RANKS:
            return []
        by_time = sorted(trials, key=lambda trial: (seconds_of(trial.option), str(trial.option.dims)))
        best = by_time[:_PROMISING]
        cut = [
            trial.name.having(chunks=count)
            for trial in best
            if trial.floor < fastest and "chunks" in trial.name.algorithm.options
            for count in _CHUNKS
        ]
        widths = dict.fromkeys(min(width, self.inner.ranks) for width in (*_WIDTHS, self.inner.ranks))
        wide = [
            trial.name.having(wide=width)
            for trial in best
            if seconds_of(trial.option) - trial.overhead < fastest * (1 - TIE)
            for width in widths
        ]
        if self.machine.in_order and self.inner.ranks <= _FEW_RANKS:
            each = {(trial.name.name, trial.name.in_nodes()[0].name): trial.name for trial in reversed(by_time)}
            wide += [name.having(wide=self.inner.ranks) for name in each.values()]
        return [*cut, *dict.fromkeys(wide)]

    def in_few_pieces(self, trials: Sequence[_Trial]) -> list[ScheduleSpec]:
        """The fastest, and those that were made for the mask, in pieces."""
        best = min(trials, key=lambda trial: (seconds_of(trial.option), str(trial.option.dims)))
        return [
            trial.name.having(chunks=count)
            for trial in trials
            if trial is best or trial.name.algorithm.masks == {self.split.mask}
            for count in _CHUNKS[:2]
            if "chunks" in trial.name.algorithm.options
        ]

    def _does(self, verified: VerifiedSchedule) -> bool:
        fits = verified.takes_heads(self.inner.heads, self.inner.kv_heads)
        return fits and (verified.keys_stay_whole or not self.keys_stay_whole)

    def _trial(self, name: ScheduleSpec, verified: VerifiedSchedule) -> _Trial:
        schedule, degree = verified.schedule, self.split.ulysses
        inside = name if self.split.ring == 1 else name.in_nodes()[0]  # between nodes flags say what runs in one
        split = replace(self.split, schedule=str(inside))
        if degree > 1:
            programs = ulysses(degree, schedule, self.problem, in_order=self.machine.in_order)
        else:
            programs = lower(schedule, self.problem, in_order=self.machine.in_order)
        simulation = run(str(split), programs, self.topology, self.machine, self.effects)
        option = _option(split, simulation, _memory(programs))
        return _Trial(name, option, simulation.floor, max(map(self._overhead, programs)))

    def _overhead(self, program: RankProgram) -> float:
        kernels, merges = (sum(isinstance(step, kind) for _, step in program.steps) for kind in (KernelCall, MergeCall))
        of_kernels = max(self.machine.attend_overhead, self.machine.launches.attend) * max(0, kernels - 1)
        return of_kernels + max(self.machine.fold_overhead, self.machine.launches.fold) * max(0, merges - 1)


def best_schedules(
    problem: Problem,
    topology: Network,
    machine: Machine,
    effects: Effects = NO_EFFECTS,
    *,
    nodes: int = 1,
    mask: Mask = Mask.FULL,
    keys_stay_whole: bool = False,
    patience: float = math.inf,
    few: bool = False,
) -> tuple[Option, ...]:
    """Every schedule for ranks that are not divided any further, in the order of :func:`plan`.

    Args:
        problem: The attention call.
        topology: Rank ``r`` is at its ``r``-th host.
        machine: Speeds of the ranks.
        effects: What else happens.
        nodes: Nodes with a ring of keys between them; 1 without.
        mask: Which keys a query sees.
        keys_stay_whole: Whether to take only schedules that neither send nor split keys.
        patience: Seconds after which no further ones are timed: the answer is then the best of those that were.
        few: Whether only those are timed that were made for the mask or send least, and the best in pieces.
    """
    split = ParallelDims(tokenring=problem.ranks // nodes, ring=nodes, mask=mask)
    until = time.monotonic() + patience
    setting = _Setting(split, problem, topology, machine, effects, keys_stay_whole, until)
    names = setting.whole()
    if few:
        names = tuple(name for name in names if name.algorithm.masks == {mask} or name.algorithm.cuts_heads)
    elif nodes == 1:
        names += setting.nodes_left_open()
    whole = setting.trials(names)
    fastest = min((seconds_of(trial.option) for trial in whole), default=math.inf)
    forms = setting.in_few_pieces(whole) if few and whole else setting.other_forms(whole, fastest)
    others = [] if time.monotonic() >= until else setting.trials(forms)
    return ranked_schedules([trial.option for trial in (*whole, *others)])


def _option(split: ParallelDims, simulation: Simulation, memory: int) -> Option:
    sent, messages = max(simulation.sent), max(simulation.messages)
    return Option(split, simulation.makespan, simulation.launch, simulation.exposed, sent, messages, memory)
