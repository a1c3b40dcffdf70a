"""Times kernels on one device, calls of few tokens on all ranks, and strategies by sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE
from tokenring_xdit.attention.kernels import KERNELS
from tokenring_xdit.bench import RESULTS_FILE, Record, SweepConfig, read_records, run_sweep
from tokenring_xdit.doctor.cases import CheckupPlan, Step, specs_of
from tokenring_xdit.doctor.commands import TimeCall, TimeKernel
from tokenring_xdit.doctor.pools import SOLO, Ranks
from tokenring_xdit.doctor.record import KernelTiming, LaunchTiming
from tokenring_xdit.dtypes import DtypeName
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.schedule import ALGORITHMS, AUTO, Mask, Published, known_as
from tokenring_xdit.workers.pool import Pool

__all__ = ["attention_sweep", "step_sweep", "sweep", "time_calls", "time_kernels"]

_TIMEOUT = 90.0

_KERNEL_SECONDS = 0.5
_TOKENS, _HEADS, _HEAD_DIM = 16, 8, 64  # of a rank, in calls of few tokens
_ROUNDS = {True: 10, False: 30}  # quick and not


def time_kernels(plan: CheckupPlan, step: Step) -> Iterator[KernelTiming]:
    """Time all kernels, one after the other, in a process that is started again where one of them ends it."""
    shape, gpu = plan.kernel_shape, plan.gpus > 0
    dtypes: tuple[DtypeName, ...] = ("bfloat16", "float32") if gpu else ("float32",)
    asked = [(kernel, dtype) for dtype in dtypes for kernel in KERNELS]
    with Ranks(SOLO, 1, on_gpus=gpu) as process:
        for done, (kernel, dtype) in enumerate(asked):
            step(done, len(asked), f"kernel {kernel}, {dtype}")
            command = TimeKernel(kernel, shape.tokens, shape.heads, shape.head_dim, dtype, _KERNEL_SECONDS)
            try:
                (timing,) = process.ask(command, _TIMEOUT)
            except LaunchError as error:
                said = f"failed: {str(error).partition(chr(10))[0]}"
                timing = KernelTiming(kernel=kernel, problem=command.problem, dtype=dtype, exact=False, said=said)
            yield timing


def time_calls(plan: CheckupPlan, world: Ranks, step: Step) -> Iterator[LaunchTiming]:
    """Time calls of so few tokens that only their launches and messages count, of every schedule, narrow and wide."""
    ranks, dtype = plan.ranks, plan.dtypes[0]
    names = [
        str(spec)
        for algorithm in ALGORITHMS.values()
        if Mask.FULL in algorithm.masks
        for spec in specs_of(algorithm, ranks, Mask.FULL)
        if {name for name, _ in spec.options} <= {"wide"}
    ]
    for done, name in enumerate(names):
        step(done, len(names), f"calls of few tokens, {name}")
        command = TimeCall(name, _TOKENS, _HEADS * ranks, _HEAD_DIM, dtype, _ROUNDS[plan.quick])
        try:
            answers = world.ask(command, _TIMEOUT)
        except LaunchError as error:
            yield LaunchTiming(schedule=name, ranks=ranks, said=str(error).partition("\n")[0])
            if world.lost is not None:
                raise
            continue
        refused = [answer for answer in answers if isinstance(answer, str)]
        if refused:
            yield LaunchTiming(schedule=name, ranks=ranks, said=refused[0])
            continue
        host, whole = (max(getattr(answer, name) for answer in answers) for name in ("host_seconds", "seconds"))
        yield LaunchTiming(schedule=name, ranks=ranks, host_seconds=host, seconds=whole)


def attention_sweep(plan: CheckupPlan, folder: Path) -> SweepConfig:
    """Attention calls of models, by strategy; on GPUs as they are, and captured as CUDA graphs."""
    ours = f"schedule:{known_as(Published.TOKEN_RING)}"
    cases = [{"tokens": s.tokens, "heads": s.heads, "head_dim": s.head_dim} for s in plan.shapes]
    launched = ["ulysses", "xfuser-ring", ours, f"schedule:{AUTO}"]
    return SweepConfig.model_validate(
        {
            "strategies": [*launched, *(f"captured+{each}" for each in launched if plan.on_gpus)],
            "ranks": plan.timed_ranks,
            "cases": cases,
            **_common(plan, folder),
        }
    )


def step_sweep(plan: CheckupPlan, folder: Path) -> SweepConfig:
    """One denoising step of a Flux with random weights, a quarter as deep as FLUX.1 on GPUs, by strategy.

    On GPUs steps of xfuser's strategies and of TokenRing are captured as CUDA graphs too.
    """
    ours = f"schedule:{known_as(Published.TOKEN_RING)}"
    several = ["ulysses", "xfuser-ring", "diffusers-ulysses", "diffusers-ring", ours, f"schedule:{AUTO}"]
    several += [f"captured+{each}" for each in ("ulysses", "xfuser-ring", ours) if plan.on_gpus]
    model, size = "random-flux:double=1,single=2,heads=8,head_dim=64,text_tokens=64", "256x256"
    if plan.gpus:
        model, size = "random-flux:double=4,single=8,heads=24,head_dim=128,text_tokens=512", "1024x1024"
    return SweepConfig.model_validate(
        {
            "level": "pipeline",
            "strategies": several if plan.timed_ranks > 1 and (plan.on_gpus or not plan.gpus) else ["single"],
            "ranks": 1 if plan.gpus and not plan.on_gpus else plan.timed_ranks,
            "models": model,
            "sizes": size,
            "steps": 1,
            **_common(plan, folder),
        }
    )


def _common(plan: CheckupPlan, folder: Path) -> dict[str, object]:
    return {
        "dtype": "bfloat16" if plan.gpus else "float32",
        "rounds": 3 if plan.quick else 5,
        "timeout": 300.0 if plan.gpus else 120.0,  # making the weights of a step takes longest
        "output": str(folder),
    }


def sweep(
    config: SweepConfig, command: str, topology: Path | None, step: Step, ranks: Pool | None = None
) -> Iterator[Record]:
    """Run a sweep, and give what was recorded, also where an error ends it, which is raised then.

    Args:
        config: The sweep.
        command: What the user typed.
        topology: What ``auto`` plans with; ``None`` leaves that to the user's environment.
        step: Told what comes next.
        ranks: Ranks that torchrun started; ``None`` starts ranks on this machine.
    """
    failure: Exception | None = None
    try:
        with _planned_with(topology):
            run_sweep(
                config,
                command=command,
                on_step=lambda said: step(said.done, said.total, said.what),
                traces=False,
                ranks=ranks,
            )
    except Exception as error:  # what was recorded until then counts
        failure = error
    results = Path(config.output) / RESULTS_FILE
    if results.exists():
        yield from read_records(results)
    if failure is not None:
        raise failure


@contextmanager
def _planned_with(topology: Path | None) -> Iterator[None]:
    """Ranks that start in this block plan with a topology, unless the user has named one."""
    if topology is None or TOPOLOGY_VARIABLE in os.environ:
        yield
        return
    os.environ[TOPOLOGY_VARIABLE] = str(topology.resolve())
    try:
        yield
    finally:
        del os.environ[TOPOLOGY_VARIABLE]
