"""``tokenring-xdit schedule``: look at schedules, in words and as pictures."""

from __future__ import annotations

import argparse
import inspect
import json
import sys

from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.schedule import BUILDERS, Mask, VerifiedSchedule, build, describe, options_of
from tokenring_xdit.schedule.drawing import draw

__all__ = ["draw_command", "list_command", "show_command"]


def _built(args: argparse.Namespace) -> VerifiedSchedule:
    return build(args.name, args.ranks, Mask.CAUSAL if args.causal else Mask.FULL, args.heads)


def _summary(name: str) -> str:
    """First line of the builder's description, and what it can be told."""
    options = ",".join(f"{option}={'auto' if value is None else value}" for option, value in options_of(name).items())
    return f"{(inspect.getdoc(BUILDERS[name]) or '').split(chr(10))[0]} [{options}]"


def list_command(args: argparse.Namespace) -> None:
    """List all schedules."""
    if args.json:
        print(json.dumps(sorted(BUILDERS)))
        return
    width = max(map(len, BUILDERS))
    for name in sorted(BUILDERS):
        print(f"{name:<{width}}  {_summary(name)}")


def show_command(args: argparse.Namespace) -> None:
    """Print a schedule step by step."""
    schedule = _built(args).schedule
    print(json.dumps(schedule.to_dict(), indent=2) if args.json else describe(schedule))


def draw_command(args: argparse.Namespace) -> None:
    """Draw a schedule."""
    picture = draw(_built(args))
    if args.output is None:
        sys.stdout.write(picture)
        return
    refuse_unwritable(args.output, f"--output {args.output}")
    write_whole(args.output, picture)
    print(f"picture: {args.output}")
