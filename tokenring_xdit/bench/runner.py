"""Runs a sweep: all strategies of a problem by turns in the same ranks, one record a case."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tokenring_xdit.bench.case_figures import figures_of, machine_facts
from tokenring_xdit.bench.commands import CheckStrategy, Prepare, Prepared, Timed, TimeStrategy, TraceStrategy
from tokenring_xdit.bench.pictures import Pixels
from tokenring_xdit.bench.plan import CallShape, Case, Level, Strategy, StrategyKind
from tokenring_xdit.bench.pool import start_pool
from tokenring_xdit.bench.records import (
    RESULTS_FILE,
    TABLE_FILE,
    Record,
    Status,
    case_fields,
    read_records,
    write_table,
)
from tokenring_xdit.bench.service import ServiceShape
from tokenring_xdit.bench.serving import compare_services
from tokenring_xdit.bench.sweep import SweepConfig
from tokenring_xdit.bench.timelines import TIMELINES_FILE, Traced, add_timeline, keep_recorded
from tokenring_xdit.devices import rank_device, refuse_missing_gpus
from tokenring_xdit.errors import ConfigurationError, LaunchError, LostRankError
from tokenring_xdit.graphs import refuse_without_cuda
from tokenring_xdit.lab.network import EmulatedNetwork, emulate, refuse_slow, self_test
from tokenring_xdit.workers.environment import rank_environment
from tokenring_xdit.workers.pool import Pool

__all__ = ["Outcome", "SweepStep", "planned_keys", "run_sweep"]

_MORE_ATTEMPTS = 1
"""How often ranks are started again for a problem, where one of them died or was stopped before any of its cases."""


@dataclass(frozen=True)
class SweepStep:
    """What is about to be done.

    Attributes:
        done: Steps that are over, or will not be needed any more.
        total: Steps of the sweep.
        what: The next one, for people.
    """

    done: int
    total: int
    what: str


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to.

    Attributes:
        records: All records of its folder, earlier ones included.
        results: The file that holds them.
    """

    records: tuple[Record, ...]
    results: Path

    def count(self, status: Status) -> int:
        """How many cases ended so."""
        return sum(record.status is status for record in self.records)


class _CaseError(Exception):
    """A call of a strategy failed, and the ranks have ended."""

    def __init__(self, strategy: Strategy, error: LaunchError) -> None:
        super().__init__(str(error))
        self.strategy = strategy


def run_sweep(
    config: SweepConfig,
    *,
    resume: bool = False,
    command: str = "",
    on_step: Callable[[SweepStep], None] = lambda step: None,
    on_picture: Callable[[Strategy, Pixels], None] | None = None,
    traces: bool = True,
    ranks: Pool | None = None,
) -> Outcome:
    """Run the cases of a sweep; each is recorded when its comparison is over, or when it failed.

    Args:
        config: The sweep.
        resume: Leave out what its folder has a record of.
        command: What the user typed to have it run, for the records.
        on_step: Told of each step before it is taken.
        on_picture: Given what each strategy of a pipeline has drawn.
        traces: Whether one call of each case is recorded, after those that are timed.
        ranks: Ranks that torchrun started, this process being rank 0; ``None`` starts ranks on this machine.

    Raises:
        ConfigurationError: It has mistakes between its keys, there are results in its folder already, or its ranks do
            not fit the machine.
        UnsupportedError: It asks for an emulated network, which this process may not make, or for CUDA graphs without
            a GPU.
        NetworkError: The emulated network does not carry what it states.
        LaunchError: No rank could be started.
    """
    mistakes = config.mistakes_between(dict(config))
    if mistakes:
        raise ConfigurationError("\n  ".join(["the sweep cannot be run:", *mistakes]))
    results = Path(config.output) / RESULTS_FILE
    if results.exists() and not resume:
        raise ConfigurationError(
            f"{results} has results already: continue with --resume, or choose another folder with output=FOLDER"
        )
    earlier = read_records(results) if results.exists() else ()
    recorded = {record.key for record in earlier}
    pending: dict[CallShape, list[Case]] = {}
    for shape, cases in config.comparisons().items():
        left = [case for case in cases if _blank(config, case).key not in recorded]
        if left:
            pending[shape] = left
    _refuse_ranks(config, pending, ranks)
    captured = [case.strategy for cases in pending.values() for case in cases if case.strategy.captured]
    if captured:
        refuse_without_cuda(f"strategy '{captured[0]}'")
    results.parent.mkdir(parents=True, exist_ok=True)
    keep_recorded(results.with_name(TIMELINES_FILE), earlier)
    sweep = _Sweep(config, results, pending, command, on_step, on_picture, traces, ranks)
    try:
        if pending:
            with _network(config, on_step) as (emulated, share):
                sweep.run(emulated, share)
    finally:
        records = read_records(results) if results.exists() else ()
        write_table(results.with_name(TABLE_FILE), records)
    return Outcome(records, results)


def planned_keys(config: SweepConfig) -> set[tuple[Any, ...]]:
    """What tells the cases of a sweep apart from those of others; see :attr:`Record.key`."""
    return {_blank(config, case).key for cases in config.comparisons().values() for case in cases}


def _blank(config: SweepConfig, case: Case, status: Status = Status.OK) -> Record:
    return Record(**case_fields(case, config.network, config.rounds, config.seed), status=status)


def _refuse_ranks(config: SweepConfig, pending: dict[CallShape, list[Case]], ranks: Pool | None) -> None:
    most = max((shape.ranks for shape in pending), default=0)
    network = config.emulated
    if ranks is not None and config.level == Level.SERVICE.value:
        raise ConfigurationError("level service starts servers of its own: start the sweep without torchrun")
    if ranks is not None:
        others = sorted({shape.ranks for shape in pending} - {ranks.ranks})
        if network is not None or others:
            asked = f"the emulated network '{network.name}'" if network is not None else f"{others} ranks"
            raise ConfigurationError(
                f"torchrun started {ranks.ranks} ranks, and the sweep asks for {asked}: use network=none and "
                f"ranks={ranks.ranks}, or start it without torchrun"
            )
    elif network is None:
        refuse_missing_gpus(most)
    elif pending:
        network.refuse_ranks(most)


@contextmanager
def _network(
    config: SweepConfig, on_step: Callable[[SweepStep], None]
) -> Iterator[tuple[EmulatedNetwork | None, float | None]]:
    """The network of a sweep, and the least share of a stated rate that it carried in its test."""
    if config.emulated is None:
        yield None, None
        return
    with emulate(config.emulated) as emulated:
        on_step(SweepStep(0, 0, f"measuring the links of {config.network}"))
        report = self_test(emulated)
        refuse_slow(report)
        figures = [figure for link in report.links for figure in (link.one_way, link.there, link.back)]
        yield emulated, min(figure.share for figure in (*figures, *report.together))


class _Sweep:
    def __init__(
        self,
        config: SweepConfig,
        results: Path,
        pending: dict[CallShape, list[Case]],
        command: str,
        on_step: Callable[[SweepStep], None],
        on_picture: Callable[[Strategy, Pixels], None] | None,
        traces: bool,
        ranks: Pool | None,
    ) -> None:
        self._config, self._results, self._pending, self._on_step = config, results, pending, on_step
        self._on_picture, self._traces, self._started = on_picture, traces, ranks
        self._load, self._command = os.getloadavg()[0], command
        self._turns = config.warmup + config.rounds
        self._done = 0
        self._total = sum(self._steps(shape, len(cases)) for shape, cases in pending.items())

    def _steps(self, shape: CallShape, cases: int) -> int:
        return 1 + (1 + self._traces) * cases + self._turns * (cases + len(_beside(shape)))

    def run(self, emulated: EmulatedNetwork | None, share: float | None) -> None:
        """Run what is pending."""
        self._common: dict[str, Any] = {"network_share": share, "load_at_start": self._load, "command": self._command}
        pool: Pool | None = None
        ended = 0
        with ExitStack() as stack:
            for shape, cases in self._pending.items():
                ended += self._steps(shape, len(cases))
                running = []
                for case in cases:
                    refusal = case.refusal()
                    if refusal is None:
                        running.append(case)
                    else:
                        self._record(case, Status.REFUSED, error=refusal)
                if isinstance(shape, ServiceShape):
                    self._serve(shape, running)
                    running = []
                attempts = _MORE_ATTEMPTS
                while running:
                    if pool is None or pool.ranks != shape.ranks:
                        stack.close()
                        self._step("starting ranks", 0)
                        pool = self._started or start_pool(shape.ranks, emulated)
                        stack.enter_context(pool)
                    try:
                        self._compare(pool, shape, running)
                        break
                    except _CaseError as failure:
                        pool = None
                        at_fault = next(case for case in running if case.strategy == failure.strategy)
                        running.remove(at_fault)
                        self._record(at_fault, Status.FAILED, error=str(failure))
                    except LaunchError as error:  # of no case in particular: the tensors do not fit, say
                        pool = None
                        if isinstance(error, LostRankError) and attempts > 0:  # which need not happen again
                            attempts -= 1
                            continue
                        for case in running:
                            self._record(case, Status.FAILED, error=str(error))
                        break
                self._done = ended

    def _serve(self, shape: ServiceShape, cases: list[Case]) -> None:
        """Measure servers by turns, and record them."""
        config, variables = self._config, {**rank_environment(shape.ranks), **os.environ}
        try:
            found = compare_services(
                shape,
                cases,
                seed=config.seed,
                warmup=config.warmup,
                rounds=config.rounds,
                timeout=config.timeout,
                on_step=self._step,
            )
        except LaunchError as error:  # of no case in particular
            found = dict.fromkeys(cases, error)
        strategies = tuple(str(case.strategy) for case in cases)
        machine = machine_facts(Prepared("auto", rank_device().type, int(variables["OMP_NUM_THREADS"])))
        for case, figures in found.items():
            if isinstance(figures, LaunchError):
                self._record(case, Status.FAILED, error=str(figures))
            else:
                self._record(case, Status.OK, **figures, beside=strategies, machine=machine)

    def _compare(self, pool: Pool, shape: CallShape, cases: list[Case]) -> None:
        """Measure cases of one problem by turns, and record them."""
        strategies = [case.strategy for case in cases]
        whole = any(strategy.kind is StrategyKind.SINGLE for strategy in strategies)
        self._step(f"preparing {shape}")
        command = Prepare(shape, self._config.seed, whole, pictures=self._on_picture is not None)
        prepared: list[Prepared] = pool.ask(command, self._config.timeout)
        checked = {strategy: self._ask(pool, strategy, CheckStrategy(strategy), "checking") for strategy in strategies}
        if self._on_picture is not None:
            drawn = ((case.strategy, found.picture) for case in cases for found in checked[case.strategy])
            for who, picture in drawn:
                if picture is not None:
                    self._on_picture(who, picture)
        times: dict[Strategy | None, list[list[Timed]]] = {}
        turns: list[Strategy | None] = [*_beside(shape), *strategies]
        for turn in range(self._turns):
            # Each turn has an order of its own, so that nobody is always behind the same one.
            for strategy in random.Random(f"{self._config.seed} {turn}").sample(turns, len(turns)):
                timed = self._ask(pool, strategy, TimeStrategy(strategy), f"turn {turn + 1} of {self._turns}")
                if turn >= self._config.warmup:
                    times.setdefault(strategy, []).append(timed)
        traced: dict[Strategy, Traced] = {}
        if self._traces:
            traced = {each: self._ask(pool, each, TraceStrategy(each), "tracing")[0] for each in strategies}
        for case in cases:
            self._record(
                case,
                Status.OK,
                traced.get(case.strategy),
                schedule=traced[case.strategy].schedule if self._traces else None,
                **figures_of(case, checked[case.strategy], times),
                beside=tuple(map(str, strategies)),
                machine=machine_facts(prepared[0]),
            )

    def _ask(
        self, pool: Pool, strategy: Strategy | None, command: CheckStrategy | TimeStrategy | TraceStrategy, doing: str
    ) -> list[Any]:
        self._step(f"{doing}: {strategy or 'attention without communication'}")
        try:
            return pool.ask(command, self._config.timeout)
        except LaunchError as error:
            if strategy is None:
                raise
            raise _CaseError(strategy, error) from error

    def _step(self, what: str, count: int = 1) -> None:
        self._on_step(SweepStep(min(self._done, self._total), self._total, what))
        self._done += count

    def _record(self, case: Case, status: Status, traced: Traced | None = None, **found: Any) -> None:
        finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = _blank(self._config, case, status).model_copy(update={**found, **self._common, "finished": finished})
        if traced is not None:
            add_timeline(self._results.with_name(TIMELINES_FILE), record, traced)
        with self._results.open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")


def _beside(shape: CallShape) -> list[None]:
    """What takes turns with the strategies: their computation alone, where ranks have one."""
    return (
        [None]
        if shape.level not in {Level.PIPELINE, Level.SERVICE} and (shape.level is Level.ATTENTION or shape.ranks > 1)
        else []
    )
