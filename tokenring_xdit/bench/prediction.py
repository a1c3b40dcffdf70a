"""What the simulation says of cases that were measured on an emulated network: how far is it off?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenring_xdit.bench.plan import Level, Strategy, StrategyKind
from tokenring_xdit.bench.records import Record
from tokenring_xdit.bench.sweep import NO_NETWORK
from tokenring_xdit.bench.text import text_model
from tokenring_xdit.dtypes import DTYPE_BYTES, parse_dtype
from tokenring_xdit.lab.effects import LabEffects
from tokenring_xdit.planning import Inside, Machine, Problem, Simulation, gathered, run, simulate, ulysses
from tokenring_xdit.planning.capacity import balanced_schedule
from tokenring_xdit.planning.layer_turn import LayerTurn
from tokenring_xdit.planning.phases import LanguagePhase, phase_of
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.schedule import Auto, Mask, ScheduleSpec, build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.topology import load_network

__all__ = ["Prediction", "predict", "programs_of"]

_FOLD_RATE = 1e10
"""Bytes a second at which a core here merges partial outputs; a hundredth of a call's time hangs on it."""


@dataclass(frozen=True)
class Prediction:
    """A case and its simulation.

    Attributes:
        record: What was measured.
        simulation: What was predicted.
    """

    record: Record
    simulation: Simulation

    @property
    def measured(self) -> float:
        """Seconds, the median."""
        assert self.record.seconds is not None
        return self.record.seconds.median

    @property
    def ratio(self) -> float:
        """Predicted seconds over measured ones."""
        return self.simulation.makespan / self.measured

    @property
    def of_bound(self) -> float:
        """What the same works, on all cores, and transfers take at least, over the measured seconds."""
        return self.simulation.floor / self.measured


def predict(records: Sequence[Record]) -> tuple[Prediction, ...]:
    """Simulate the attention calls among records that ran on an emulated network, over several ranks.

    The kernel's speed is taken from the record itself: what the attention of all ranks took with nothing sent. So what
    is compared is the course of communication and computation, not the speed of this machine.
    """
    found = []
    for record in records:
        simulation = _simulated(record)
        if simulation is not None:
            found.append(Prediction(record, simulation))
    return tuple(found)


def _simulated(record: Record) -> Simulation | None:
    measured = record.seconds is not None and record.compute_seconds is not None
    if not measured or record.level == Level.PIPELINE.value or record.network == NO_NETWORK:
        return None
    strategy = Strategy.parse(record.strategy)
    if record.level == Level.TEXT.value:
        return _of_text(record, strategy)
    problem = Problem.even(
        record.ranks,
        record.tokens,
        record.heads,
        record.head_dim,
        query_tokens=record.queries,
        batch=record.batch,
        element_bytes=DTYPE_BYTES[parse_dtype(record.dtype)],
    )
    machine, effects = _machine(record, record.num_queries * record.tokens)
    programs = programs_of(strategy, problem, in_order=machine.in_order)
    if programs is None:
        return None
    return run(record.strategy, programs, load_network(record.network), machine, effects)


def _machine(record: Record, pairs: float) -> tuple[Machine, LabEffects]:
    """What ranks had: a kernel so fast that all pairs of queries and keys took as long as was measured."""
    assert record.compute_seconds is not None
    cores, threads = float(record.machine["cores"]), int(record.machine["threads_per_rank"])
    at_once = min(record.ranks, cores / threads)  # ranks that compute at full speed
    operations = 4.0 * pairs * record.heads * record.head_dim * record.batch
    rate = operations / at_once / record.compute_seconds.median
    machine = Machine.of_processors(rate, _FOLD_RATE, cores=cores, threads=threads)
    return machine, LabEffects.fitted(threads)


_WAYS = {StrategyKind.PASS_KV: Way.KEYS, StrategyKind.PASS_Q: Way.QUERIES, StrategyKind.GATHER_KV: Way.GATHER_KV}


def _of_text(record: Record, strategy: Strategy) -> Simulation | None:
    """Attention of a language model of one layer; all that it computes besides counts as attention."""
    assert record.kv_heads is not None
    if record.model is None or record.chunk is not None or text_model(record.model).layers != 1:
        return None
    past, new, dtype = record.tokens - record.num_queries, record.num_queries, DTYPE_BYTES[parse_dtype(record.dtype)]
    turn = LayerTurn(record.ranks, past, new, record.heads, record.kv_heads, record.head_dim, record.batch, dtype)
    everywhere = phase_of(turn) is LanguagePhase.STEP
    machine, effects = _machine(record, new * past + new * (new + 1) / 2)
    network, way = load_network(record.network), _WAYS.get(strategy.kind)
    if everywhere and way is not Way.GATHER_KV:
        way = Way.OUTPUTS
    if way is not None:
        return run(record.strategy, turn.programs(way), network, machine, effects)
    name = balanced_schedule() if strategy.kind is StrategyKind.BALANCED else str(strategy.schedule)
    if past or Auto.parse(name) is not None:
        return None
    problem = Problem.even(
        record.ranks,
        new,
        record.heads,
        record.head_dim,
        kv_heads=record.kv_heads,
        batch=record.batch,
        element_bytes=dtype,
    )
    return simulate(build(name, record.ranks, Mask.CAUSAL, record.kv_heads), network, problem, machine, effects)


def programs_of(strategy: Strategy, problem: Problem, *, in_order: bool) -> tuple[RankProgram, ...] | None:
    """What each rank does under a strategy of a sweep; ``None`` where no model is made of it."""
    ranks = problem.ranks // strategy.ulysses
    if strategy.kind is StrategyKind.ULYSSES:
        return ulysses(problem.ranks, Inside.GATHERED, problem, in_order=in_order)
    if isinstance(strategy.schedule, ScheduleSpec):
        schedule = build(str(strategy.schedule), ranks, heads=problem.heads // strategy.ulysses).schedule
        if strategy.ulysses == 1:
            return lower(schedule, problem, in_order=in_order)
        return ulysses(strategy.ulysses, schedule, problem, in_order=in_order)
    if strategy.kind is StrategyKind.XFUSER_RING:
        if strategy.ulysses == 1:
            return gathered(problem)
        return ulysses(strategy.ulysses, Inside.GATHERED, problem, in_order=in_order)
    return None  # one rank, what the call chose, or xfuser's rotation, of which no model is made
