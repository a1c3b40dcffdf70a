"""Which attention call is planned for, and on which machine, as the command line says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tokenring_xdit.dtypes import DTYPE_BYTES, torch_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.models import model_shape
from tokenring_xdit.lab.effects import LabEffects
from tokenring_xdit.planning import NO_EFFECTS, Effects, Machine, ModelShape, Problem
from tokenring_xdit.planning.figures import PlanFigure, Standing, figures
from tokenring_xdit.sizes import PictureSize
from tokenring_xdit.topology import Network, load_topology

__all__ = ["figure_lines", "figures_of", "machine_of", "problem_of", "topology_of"]

_SIZE = "1024"


def topology_of(args: argparse.Namespace) -> tuple[Network, int]:
    """The topology, and the number of ranks on it.

    Raises:
        ConfigurationError: There is no such topology, or the ranks do not fit on it.
    """
    topology = load_topology(args.topology)
    ranks = len(topology.hosts) if args.ranks is None else args.ranks
    if not 1 <= ranks <= len(topology.hosts):
        raise ConfigurationError(
            f"--ranks {ranks} does not fit topology {args.topology} of {len(topology.hosts)} hosts"
        )
    return topology, ranks


def problem_of(args: argparse.Namespace, ranks: int) -> tuple[Problem, ModelShape | None]:
    """The attention call, and the model that it is of, if any.

    Raises:
        ConfigurationError: It is not said, or said twice; the message lists all mistakes.
    """
    numbers = {"tokens": args.tokens, "heads": args.heads, "head-dim": args.head_dim}
    given = [f"--{name}" for name, value in numbers.items() if value is not None]
    too_small = [f"--{n} {v}" for n, v in {**numbers, "batch": args.batch}.items() if v is not None and v < 1]
    if too_small:
        raise ConfigurationError(f"{', '.join(too_small)}: has to be 1 or more")
    if args.model is None:
        strange = [f"--{name}" for name in ("size", "frames") if getattr(args, name) is not None]
        if strange:
            raise ConfigurationError(
                f"{', '.join(strange)} says nothing without --model: the attention call is described by --tokens"
            )
        missing = [f"--{name}" for name, value in numbers.items() if value is None]
        if missing:
            raise ConfigurationError(f"say --model, or {', '.join(missing)} as well, to describe the attention call")
        model, tokens, heads, head_dim, kv_heads = None, args.tokens, args.heads, args.head_dim, args.kv_heads
    else:
        if given or args.kv_heads is not None:
            raise ConfigurationError(f"--model {args.model} says what {' and '.join(given) or '--kv-heads'} would say")
        model = model_shape(args.model)
        size = PictureSize.parse(_SIZE if args.size is None else args.size)
        tokens = model.tokens(size.width, size.height, 1 if args.frames is None else args.frames)
        heads, head_dim, kv_heads = model.heads, model.head_dim, model.kv_heads
    if kv_heads is not None and (kv_heads < 1 or heads % kv_heads):
        raise ConfigurationError(f"--kv-heads {kv_heads} has to divide --heads {heads}")
    if args.queries is not None and args.queries < 1:
        raise ConfigurationError(f"--queries {args.queries} has to be 1 or more")
    problem = Problem.even(
        ranks,
        tokens,
        heads,
        head_dim,
        query_tokens=args.queries,
        kv_heads=kv_heads,
        batch=args.batch,
        element_bytes=DTYPE_BYTES[args.dtype],
    )
    return problem, model


def machine_of(args: argparse.Namespace, topology: Network, problem: Problem) -> tuple[Machine, Effects, str]:
    """Speeds of a rank, what else happens to ranks that share a processor, and where the speeds come from.

    Raises:
        ConfigurationError: The topology is of GPUs and there is none here to measure, or ``--cuda-graphs`` was asked
            of a machine without them.
    """
    if args.tflops is not None:
        if not args.tflops > 0:
            raise ConfigurationError(f"--tflops {args.tflops} has to be more than 0")
        machine, source = Machine.of_gpus(args.tflops * 1e12), f"{args.tflops:g} TFLOP/s"
        effects = NO_EFFECTS
    else:
        machine, effects, source = _measured(args, topology, problem)
    if args.cuda_graphs:
        if machine.cores is not None:
            raise ConfigurationError("--cuda-graphs is about GPUs, and this machine has none: pass --tflops for theirs")
        machine, source = machine.captured(), f"{source}; calls captured as CUDA graphs"
    return machine, effects, source


def figures_of(args: argparse.Namespace, topology: Network, machine: Machine) -> tuple[PlanFigure, ...]:
    """What a prediction stands on, where ``--tflops`` is the user's own or was measured."""
    return figures(topology, machine, Standing.MEASURED_HERE if args.tflops is None else Standing.GIVEN)


def figure_lines(found: Sequence[PlanFigure]) -> list[str]:
    """Figures for people, those of a kind together."""
    lines = ["figures behind this:"]
    for standing in Standing:
        own = [figure for figure in found if figure.standing is standing]
        lines += [f"  {standing.value}: {f.what}" + (f" ({f.source})" if f.source else "") for f in own]
    return lines


def _measured(args: argparse.Namespace, topology: Network, problem: Problem) -> tuple[Machine, Effects, str]:
    # Where the speed is given nothing needs torch, which takes seconds to import.
    import torch  # noqa: PLC0415

    from tokenring_xdit.attention import calibrate  # noqa: PLC0415

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and topology.of_accelerators:
        raise ConfigurationError(
            f"topology {args.topology} is of GPUs, and this machine has none to measure the attention kernel on: pass "
            "--tflops, what the kernel reaches there"
        )
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // problem.ranks))
    machine = calibrate(
        device, torch_dtype(args.dtype), problem.heads, problem.head_dim, ranks_here=problem.ranks, ranks=problem.ranks
    )
    effects = LabEffects.fitted(torch.get_num_threads()) if device.type == "cpu" else NO_EFFECTS
    return machine, effects, f"{machine.attend_rate / 1e12:.3g} TFLOP/s, measured on this machine's {device.type}"
