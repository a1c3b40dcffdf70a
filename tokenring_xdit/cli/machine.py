"""Arguments that say which attention call is planned for, and on which machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tokenring_xdit.dtypes import DTYPE_BYTES, DTYPES, parse_dtype, torch_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.planning import MODELS, Cost, ModelShape, Problem, model_shape
from tokenring_xdit.sizes import PictureSize
from tokenring_xdit.topology import EXAMPLES, Network, load_topology

if TYPE_CHECKING:
    import torch

__all__ = ["add_arguments", "cost_of", "problem_of", "topology_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to a command."""
    parser.add_argument("--topology", required=True, help=f"what joins the ranks: {EXAMPLES}, or a preset")
    parser.add_argument("--ranks", type=int, help="number of ranks (default: one for each host of the topology)")
    about = parser.add_argument_group("the attention call: a model, or numbers")
    about.add_argument("--model", help=f"one of {', '.join(MODELS)}")
    about.add_argument("--size", default="1024", help="pixels, or WIDTHxHEIGHT, as 1280x720 (default: %(default)s)")
    about.add_argument("--frames", type=int, default=1, help="of the video (default: %(default)s)")
    about.add_argument("--tokens", type=int, help="length of the whole sequence, in place of a model")
    about.add_argument("--queries", type=int, help="how many of the tokens ask, where not all do, as with PipeFusion")
    about.add_argument("--heads", type=int, help="heads of queries")
    about.add_argument("--kv-heads", type=int, help="heads of keys and values, where they are fewer")
    about.add_argument("--head-dim", type=int, help="width of a head")
    about.add_argument("--batch", type=int, default=1, help="items of a batch (default: %(default)s)")
    about.add_argument(
        "--dtype",
        type=parse_dtype,
        default="bfloat16",
        help=f"of the tensors: {', '.join(DTYPES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--tflops",
        type=float,
        help="what the attention kernel reaches on one GPU of the topology, in 10^12 operations a second "
        "(default: measured on this machine's device, in about a second)",
    )
    parser.add_argument(
        "--cuda-graphs", action="store_true", help="calls are captured as CUDA graphs: launching them takes no time"
    )


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
        missing = [f"--{name}" for name, value in numbers.items() if value is None]
        if missing:
            raise ConfigurationError(f"say --model, or {', '.join(missing)} as well, to describe the attention call")
        model, tokens, heads, head_dim, kv_heads = None, args.tokens, args.heads, args.head_dim, args.kv_heads
    else:
        if given or args.kv_heads is not None:
            raise ConfigurationError(f"--model {args.model} says what {' and '.join(given) or '--kv-heads'} would say")
        model = model_shape(args.model)
        size = PictureSize.parse(args.size)
        tokens = model.tokens(size.width, size.height, args.frames)
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


def cost_of(args: argparse.Namespace, topology: Network, problem: Problem) -> tuple[Cost, str]:
    """Speeds of a rank, and where they come from.

    Raises:
        ConfigurationError: The topology is of GPUs and there is none here to measure, or ``--cuda-graphs`` was asked
            of a machine without them.
    """
    if args.tflops is not None:
        if not args.tflops > 0:
            raise ConfigurationError(f"--tflops {args.tflops} has to be more than 0")
        cost, source = Cost.of_gpus(args.tflops * 1e12), f"{args.tflops:g} TFLOP/s, as given"
    else:
        cost, source = _measured(args, topology, problem)
    if args.cuda_graphs:
        if cost.cores is not None:
            raise ConfigurationError("--cuda-graphs is about GPUs, and this machine has none: pass --tflops for theirs")
        cost, source = cost.captured(), f"{source}; calls captured as CUDA graphs"
    return cost, source


def _measured(args: argparse.Namespace, topology: Network, problem: Problem) -> tuple[Cost, str]:
    import torch

    from tokenring_xdit.attention import calibrate

    device: torch.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and topology.of_accelerators:
        raise ConfigurationError(
            f"topology {args.topology} is of GPUs, and this machine has none to measure the attention kernel on: pass "
            "--tflops, what the kernel reaches there"
        )
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // problem.ranks))
    cost = calibrate(
        device, torch_dtype(args.dtype), problem.heads, problem.head_dim, ranks_here=problem.ranks, ranks=problem.ranks
    )
    return cost, f"{cost.attend_rate / 1e12:.3g} TFLOP/s, measured on this machine's {device.type}"
