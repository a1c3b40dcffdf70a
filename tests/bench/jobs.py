"""What worker ranks do for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch

from tests.graphs.operators import OperatorRecorder
from tests.hosts.xfuser.jobs import clear_globals
from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE, trial_calls
from tokenring_xdit.bench import CallShape, Strategy
from tokenring_xdit.bench import captured as bench_captured
from tokenring_xdit.bench import measure as bench_measure
from tokenring_xdit.bench.commands import Checked, Prepare, Timed
from tokenring_xdit.bench.measure import Bench
from tokenring_xdit.bench.pipeline import PipelineBench
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.bench.workload import WorkloadShape

CPU = torch.device("cpu")


def check(shape: CallShape, names: list[str]) -> dict[str, Checked]:
    """What this rank finds of strategies on a problem, of either level, by turns."""
    return {name: found for name, (found, _) in measure(shape, names).items()}


def measure(shape: CallShape, names: list[str]) -> dict[str, tuple[Checked, Timed]]:
    """The same with times."""
    with _bench(shape, names) as bench:
        strategies = {name: Strategy.parse(name) for name in names}
        found = {name: bench.check(strategy) for name, strategy in strategies.items()}
        return {name: (found[name], bench.time(strategy)) for name, strategy in strategies.items()}


@contextmanager
def _bench(shape: CallShape, names: list[str]) -> Iterator[Bench | PipelineBench]:
    try:
        kind = PipelineBench if isinstance(shape, WorkloadShape) else Bench
        yield kind(Prepare(shape, 3, "single" in names), CPU)
    finally:  # the pool destroys the groups
        Bench._states.clear()
        PipelineBench._loaded = None
        clear_globals()


def captured(shape: CallShape, names: list[str]) -> dict[str, tuple[Checked, Timed]]:
    """What this rank finds of captured strategies, where operators are done again in the place of a GPU's kernels."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bench_measure, "CudaRecorder", OperatorRecorder)
        patched.setattr(bench_captured, "CudaRecorder", OperatorRecorder)
        return measure(shape, names)


def settled(shape: CallShape, name: str, cache: str) -> tuple[list[int], str | None]:
    """Trial calls of ``auto`` in a check, a timed call and a traced one, and on rank 0 what the last of them ran."""
    with pytest.MonkeyPatch.context() as patched, _bench(shape, [name]) as bench:
        patched.setenv("XDG_CACHE_HOME", cache)
        patched.delenv(TOPOLOGY_VARIABLE, raising=False)
        strategy, counts = Strategy.parse(name), [trial_calls()]
        bench.check(strategy)
        counts.append(trial_calls())
        bench.time(strategy)
        counts.append(trial_calls())
        traced = bench.trace(strategy)
        counts.append(trial_calls())
        return [after - before for before, after in pairwise(counts)], traced.schedule if traced else None


def trace(shape: CallShape, names: list[str]) -> dict[str, tuple[Checked, Traced | None]]:
    """What this rank finds of strategies, and what rank 0 has recorded of all."""
    with _bench(shape, names) as bench:
        strategies = {name: Strategy.parse(name) for name in names}
        return {name: (bench.check(strategy), bench.trace(strategy)) for name, strategy in strategies.items()}
