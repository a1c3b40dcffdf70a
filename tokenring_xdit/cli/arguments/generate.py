"""Arguments of ``tokenring-xdit generate``."""

from __future__ import annotations

import argparse

from tokenring_xdit.cli.arguments.picture import add_picture_options
from tokenring_xdit.defaults import DEFAULT_SCHEDULE

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
    parser.set_defaults(action="generate:generate_command")
