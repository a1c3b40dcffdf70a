"""``tokenring-xdit generate``: a picture from a prompt, on one rank or several."""

from __future__ import annotations

import argparse
import json

from tokenring_xdit.cli.picture import add_picture_options, picture_from, png_path
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule import DEFAULT_SCHEDULE

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "generate",
        help="draw a picture, the attention sharded over several ranks",
        epilog='example: tokenring-xdit generate "a red circle left of a blue square" --tokenring-degree 4',
    )
    add_picture_options(parser)
    parser.add_argument("--ulysses-degree", type=int, default=1, help="ranks that Ulysses shards the heads over")
    parser.add_argument("--tokenring-degree", type=int, default=1, help="ranks that TokenRing shards the sequence over")
    parser.add_argument(
        "--ring-degree",
        type=int,
        default=1,
        help="ranks of xfuser's own Ring; with --tokenring-degree: the number of nodes",
    )
    parser.add_argument(
        "--schedule",
        default=DEFAULT_SCHEDULE,
        help="schedule of the TokenRing ranks, see schedule list (default: %(default)s)",
    )
    parser.add_argument(
        "--ranks", type=int, help="number of processes; has to be the product of the degrees, which is the default"
    )
    parser.add_argument("--output", default="outputs/picture.png", help="where the PNG goes (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from tokenring_xdit.integrations.xfuser import Degrees
    from tokenring_xdit.pipelines.jobs import GenerateJob
    from tokenring_xdit.pipelines.launch import run_job

    degrees = Degrees(args.ulysses_degree, args.tokenring_degree, args.ring_degree, args.schedule)
    if args.ranks is not None and args.ranks != degrees.ranks:
        raise ConfigurationError(
            f"--ranks {args.ranks} does not fit the degrees: ulysses {degrees.ulysses} x tokenring {degrees.tokenring} "
            f"x ring {degrees.ring} make {degrees.ranks}"
        )
    model, picture = picture_from(args)
    model.check(degrees, picture.size)
    output = png_path(args.output)
    result = run_job(GenerateJob(picture, degrees, str(output)), degrees.ranks)
    if args.json:
        print(json.dumps({**result, "ranks": degrees.ranks}))
    else:
        step = f", {result['ms_per_step']:.0f} ms a step" if result["ms_per_step"] is not None else ""
        print(f"wrote {result['output']} ({degrees.ranks} rank{'s' * (degrees.ranks > 1)}{step})")
