"""``tokenring-xdit schedule``: look at schedules, in words and as pictures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.schedule import ALGORITHMS, DEFAULT_SCHEDULE, Mask, VerifiedSchedule, build, describe

__all__ = ["add_parser"]

_IN_PIECES = f"{DEFAULT_SCHEDULE}:chunks=4"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("schedule", help="list schedules, print who sends what to whom, and when, or draw it")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    listing = subcommands.add_parser(
        "list", help="names of all schedules", epilog="example: tokenring-xdit schedule list"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)

    show = subcommands.add_parser(
        "show",
        help="one schedule, step by step",
        epilog=f"example: tokenring-xdit schedule show {DEFAULT_SCHEDULE} --ranks 4, or "
        f"tokenring-xdit schedule show {_IN_PIECES} --ranks 4",
    )
    _add_which(show)
    show.add_argument("--json", action="store_true", help="print the plan as JSON")
    show.set_defaults(run=_show)

    drawing = subcommands.add_parser(
        "draw",
        help="one schedule as a picture, up to 16 ranks",
        epilog=f"example: tokenring-xdit schedule draw {DEFAULT_SCHEDULE} --ranks 4 --output {DEFAULT_SCHEDULE}.svg",
    )
    _add_which(drawing)
    drawing.add_argument("--output", type=Path, help="SVG file to write (default: print it)")
    drawing.set_defaults(run=_draw)


def _add_which(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which schedule."""
    parser.add_argument("name", help=f"name of the schedule, with options as in {_IN_PIECES}")
    parser.add_argument("--ranks", type=int, required=True, help="number of ranks")
    parser.add_argument(
        "--heads", type=int, default=0, help="number of heads, where a schedule cuts them (default: an even one)"
    )
    parser.add_argument("--causal", action="store_true", help="leave out pairs of a query block and a later key block")


def _built(args: argparse.Namespace) -> VerifiedSchedule:
    return build(args.name, args.ranks, Mask.CAUSAL if args.causal else Mask.FULL, args.heads)


def _summary(name: str) -> str:
    """What it does, and what it can be told."""
    algorithm = ALGORITHMS[name]
    options = ((option, "auto" if value is None else value) for option, value in algorithm.options.items())
    return f"{algorithm.summary} [{','.join(f'{option}={value}' for option, value in options)}]"


def _list(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(list(ALGORITHMS)))
        return
    width = max(map(len, ALGORITHMS))
    for name in ALGORITHMS:
        print(f"{name:<{width}}  {_summary(name)}")


def _show(args: argparse.Namespace) -> None:
    schedule = _built(args).schedule
    print(json.dumps(schedule.to_dict(), indent=2) if args.json else describe(schedule))


def _draw(args: argparse.Namespace) -> None:
    from tokenring_xdit.schedule.drawing import draw

    picture = draw(_built(args))
    if args.output is None:
        sys.stdout.write(picture)
        return
    refuse_unwritable(args.output, f"--output {args.output}")
    write_whole(args.output, picture)
    print(f"picture: {args.output}")
