"""Arguments of ``tokenring-xdit compare``."""

from __future__ import annotations

import argparse

from tokenring_xdit.cli.arguments.picture import add_picture_options
from tokenring_xdit.defaults import DEFAULT_SCHEDULE

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="draw the same picture with every strategy and lay the results side by side",
        epilog='example: tokenring-xdit compare "a red circle left of a blue square" --ranks 4 --output sheet.png',
    )
    add_picture_options(parser)
    parser.add_argument("--ranks", type=int, default=4, help="ranks of each strategy (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="timed rounds, strategies taking turns (default: %(default)s)"
    )
    parser.add_argument(
        "--schedule",
        default=DEFAULT_SCHEDULE,
        help="schedule of the TokenRing ranks, see schedule list (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        default="outputs/compare.png",
        help="the contact sheet; the JSON goes beside it (default: %(default)s)",
    )
    parser.set_defaults(action="compare:compare_command")
