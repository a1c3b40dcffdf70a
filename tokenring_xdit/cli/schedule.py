"""``tokenring-xdit schedule``: look at schedules."""

from __future__ import annotations

import argparse
import inspect
import json

from tokenring_xdit.schedule import BUILDERS, Mask, build, describe, options_of

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("schedule", help="list schedules, or print who sends what to whom, and when")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    listing = subcommands.add_parser(
        "list", help="names of all schedules", epilog="example: tokenring-xdit schedule list"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)

    show = subcommands.add_parser(
        "show",
        help="one schedule, step by step",
        epilog="example: tokenring-xdit schedule show token_ring --ranks 4, or "
        "tokenring-xdit schedule show direct:chunks=4 --ranks 4",
    )
    show.add_argument("name", help="name of the schedule, with options as in direct:chunks=4")
    show.add_argument("--ranks", type=int, required=True, help="number of ranks")
    show.add_argument(
        "--heads", type=int, default=0, help="number of heads, where a schedule cuts them (default: an even one)"
    )
    show.add_argument("--causal", action="store_true", help="leave out pairs of a query block and a later key block")
    show.add_argument("--json", action="store_true", help="print the plan as JSON")
    show.set_defaults(run=_show)


def _summary(name: str) -> str:
    """First line of the builder's description, and what it can be told."""
    options = ",".join(f"{option}={'auto' if value is None else value}" for option, value in options_of(name).items())
    return f"{(inspect.getdoc(BUILDERS[name]) or '').split(chr(10))[0]} [{options}]"


def _list(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(sorted(BUILDERS)))
        return
    width = max(map(len, BUILDERS))
    for name in sorted(BUILDERS):
        print(f"{name:<{width}}  {_summary(name)}")


def _show(args: argparse.Namespace) -> None:
    verified = build(args.name, args.ranks, Mask.CAUSAL if args.causal else Mask.FULL, args.heads)
    print(json.dumps(verified.schedule.to_dict(), indent=2) if args.json else describe(verified.schedule))
