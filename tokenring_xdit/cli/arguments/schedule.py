"""Arguments of ``tokenring-xdit schedule``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenring_xdit.defaults import DEFAULT_SCHEDULE

__all__ = ["add_parser"]

_IN_PIECES = f"{DEFAULT_SCHEDULE}:chunks=4"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "schedule",
        help="list schedules, print who sends what to whom, and when, or draw it",
        epilog=f"example: tokenring-xdit schedule show {DEFAULT_SCHEDULE} --ranks 4",
    )
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    listing = subcommands.add_parser(
        "list", help="print the names of all schedules", epilog="example: tokenring-xdit schedule list"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(action="schedule:list_command")

    show = subcommands.add_parser(
        "show",
        help="print one schedule, step by step",
        epilog=f"example: tokenring-xdit schedule show {_IN_PIECES} --ranks 4",
    )
    _add_which(show)
    show.add_argument("--json", action="store_true", help="print the plan as JSON")
    show.set_defaults(action="schedule:show_command")

    drawing = subcommands.add_parser(
        "draw",
        help="draw one schedule, up to 16 ranks",
        epilog=f"example: tokenring-xdit schedule draw {DEFAULT_SCHEDULE} --ranks 4 --output {DEFAULT_SCHEDULE}.svg",
    )
    _add_which(drawing)
    drawing.add_argument(
        "--animated", action="store_true", help="play the steps one after the other, in a picture without a legend"
    )
    drawing.add_argument("--output", type=Path, help="SVG file to write (default: print it)")
    drawing.set_defaults(action="schedule:draw_command")


def _add_which(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which schedule."""
    parser.add_argument("name", help=f"name of the schedule, with options as in {_IN_PIECES}")
    parser.add_argument("--ranks", type=int, required=True, help="number of ranks")
    parser.add_argument(
        "--heads", type=int, default=0, help="number of heads, where a schedule cuts them (default: an even one)"
    )
    parser.add_argument("--causal", action="store_true", help="leave out pairs of a query block and a later key block")
