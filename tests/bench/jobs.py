"""What worker ranks do for the tests of this folder."""

from __future__ import annotations

import torch

from tests.integrations.xfuser.jobs import clear_globals
from tokenring_xdit.bench import Shape, Strategy
from tokenring_xdit.bench.measure import Bench
from tokenring_xdit.bench.orders import Checked, Prepare, Timed
from tokenring_xdit.bench.pipeline import PipelineBench
from tokenring_xdit.bench.scene import SceneShape

CPU = torch.device("cpu")


def check(shape: Shape, names: list[str]) -> dict[str, Checked]:
    """What this rank finds of strategies on a problem, of either level, by turns."""
    return {name: found for name, (found, _) in measure(shape, names).items()}


def measure(shape: Shape, names: list[str]) -> dict[str, tuple[Checked, Timed]]:
    """The same with times."""
    try:
        kind = PipelineBench if isinstance(shape, SceneShape) else Bench
        bench = kind(Prepare(shape, 3, "single" in names), CPU)
        strategies = {name: Strategy.parse(name) for name in names}
        found = {name: bench.check(strategy) for name, strategy in strategies.items()}
        return {name: (found[name], bench.time(strategy)) for name, strategy in strategies.items()}
    finally:  # the pool destroys the groups
        Bench._states.clear()
        PipelineBench._loaded = None
        clear_globals()
