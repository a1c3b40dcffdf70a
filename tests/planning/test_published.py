"""What others have measured on machines that nobody here has, beside what is predicted for them.

Figures of two sites for one machine differ by up to 1.6 times, so order and differences within one run are compared.
Sources are named with each; times are those of whole pictures or steps, of which all but attention is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.planning import Machine, Problem, split_seconds
from tokenring_xdit.topology import Network, load_topology

FLUX, FLUX_CALLS = (4608, 24), 57
"""Tokens and heads of a picture of 1024 x 1024 pixels, and attention calls of a step."""

H100 = Machine.of_gpus(6e14)
"""A bf16 kernel on a GPU with NVLink (docs/gpu.md)."""
CAPTURED = H100.captured()
RTX_4090 = Machine.of_gpus(1.5e14, 2.4e11, 128)
"""Kernel: docs/planner.md; merges at 1008 of the H100's 3350 GB/s of memory, as its maker says."""
L20 = Machine.of_gpus(1e14, 2.1e11, 92)
"""Kernel: a guess below its peak of 119.5 TFLOP/s; memory of 864 GB/s."""


def split(text: str) -> ParallelDims:
    """``U4``, ``R4``, ``U2R2`` as publications write them, ``P4`` for a ring that computes while keys travel."""
    numbers = {kind: int(number) for kind, number in zip(text[::2], text[1::2], strict=True)}
    if "P" in numbers:
        return ParallelDims(tokenring=numbers["P"], schedule="ring")
    return ParallelDims(ulysses=numbers.get("U", 1), ring=numbers.get("R", 1))


@dataclass(frozen=True)
class Published:
    """Times of one run.

    Attributes:
        source: Who published it.
        topology: Of the machine, or of one whose links are alike.
        machine: Its GPUs.
        attention: Tokens and heads.
        times: By split.
        calls: Attention calls of what took so long; 0 where differences were not compared.
        head_dim: Width of a head.
    """

    source: str
    topology: str
    machine: Machine
    attention: tuple[int, int]
    times: dict[str, float]
    calls: int = 0
    head_dim: int = 128

    def seconds(self, name: str) -> float:
        """What is predicted for an attention call."""
        dims, (tokens, heads) = split(name), self.attention
        problem = Problem.even(dims.ranks, tokens, heads, self.head_dim, element_bytes=2)
        found = split_seconds(problem, dims, self._network(), self.machine)
        assert found is not None
        return found

    def _network(self) -> Network:
        return load_topology(self.topology)


RUNS = [
    Published(
        "xDiT docs/performance/flux.md: FLUX.1 1024, 28 steps, compiled, 4 x H100; seconds",
        "hgx-h100", CAPTURED, FLUX, {"U4": 1.63, "U2R2": 1.80, "R4": 1.98, "U2": 2.68, "U1": 4.30}, 28 * FLUX_CALLS,
    ),
    Published(
        "the same, eager",
        "hgx-h100", H100, FLUX, {"U4": 4.24, "R4": 5.11, "R2": 5.31, "U1": 6.71},
    ),
    Published(
        "xDiT issue 378: the same machine elsewhere, compiled",
        "hgx-h100", CAPTURED, FLUX, {"U4": 2.21, "U2R2": 2.85, "R4": 3.05, "R2": 3.70},
    ),
    Published(
        "the same, eager",
        "hgx-h100", H100, FLUX, {"U4": 2.96, "U2R2": 3.23, "R4": 3.70, "R2": 5.01, "U1": 6.27},
    ),
    Published(
        "xDiT issue 416: FLUX.1 1024, 25 steps, eager, 8 x H100; seconds",
        "hgx-h100", H100, FLUX, {"U4R2": 2.81, "U2R4": 3.55, "R8": 4.34},
    ),
    Published(
        "cache-dit docs: FLUX.1 1024, 50 steps, eager, 2 x H100; seconds",
        "hgx-h100", H100, FLUX, {"U2": 6.04, "U1": 9.30},
    ),
    Published(
        "diffusers docs: 4 x H100; ms",
        "hgx-h100", H100, FLUX, {"U4": 6671, "R4": 13076},
    ),
    Published(
        "diffusers issue 13545: FLUX.1 1024, 4 x RTX 4090; ms a step",
        "4x4090", RTX_4090, FLUX, {"U4": 259, "U2R2": 322, "R4": 339}, 1000 * FLUX_CALLS,
    ),
    Published(
        "cache-dit docs and issue 754: FLUX.1 1024, 28 steps, 4 x L20, whose links are those of L40S; seconds",
        "4xl40s", L20, FLUX, {"U4": 8.25, "U2R2": 8.55, "P4": 9.16, "R4": 9.82, "U1": 23.56}, 28 * FLUX_CALLS,
    ),
    Published(
        "the same, 2 x L20",
        "4xl40s", L20, FLUX, {"P2": 13.43, "U2": 13.80, "R2": 14.01, "U1": 23.56}, 28 * FLUX_CALLS,
    ),
    Published(
        "vLLM-Omni docs: Qwen-Image 2048, 50 steps, H800, whose NVLink has 8 of 18 links; seconds",
        "hgx-h100", H100, (16384 + 512, 24), {"U8": 30.8, "U4": 39.6, "U2": 65.2, "U1": 112.5},
    ),
    Published(
        "xDiT docs: HunyuanVideo 720p, 129 frames, 50 steps, H100; seconds",
        "hgx-h100", H100, (119056, 24), {"U8": 338, "U4": 514, "U2": 925, "U1": 1904},
    ),
    Published(
        "the same, 4 x L20",
        "4xl40s", L20, (119056, 24), {"U4": 2080, "U2": 3271, "U1": 6044},
    ),
]  # fmt: skip


def order(run: Published, kinds: str) -> list[str]:
    """Names of a run whose first letter is one of these, fastest first as published."""
    return sorted((name for name in run.times if name[0] in kinds), key=run.times.__getitem__)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.source.partition(":")[0])
def test_strategies_rank_as_they_were_measured(run: Published) -> None:
    """Rings that overlap are other people's code, with merges in torch's operators: compared with gathering alone."""
    for kinds in ("UR", "PR"):
        names = order(run, kinds)
        found = {name: run.seconds(name) for name in names}
        print({name: f"{seconds * 1e3:.3f} ms" for name, seconds in found.items()})
        assert sorted(names, key=found.__getitem__) == names


@pytest.mark.parametrize("run", [run for run in RUNS if {"U4", "R4"} <= {*run.times} and run.calls])
def test_a_ring_costs_as_much_more_than_ulysses_as_was_measured(run: Published) -> None:
    """All else in a step is the same, so what differs is attention: that of one call."""
    published = (run.times["R4"] - run.times["U4"]) / run.calls
    predicted = run.seconds("R4") - run.seconds("U4")
    print(f"{predicted * 1e3:.3f} ms, published {published * 1e3:.3f} ms")
    assert 1 / 1.5 < predicted / published < 1.5
