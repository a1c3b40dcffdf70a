"""``tokenring-xdit schedule``: look at schedules, in words and as pictures."""

from __future__ import annotations

import argparse
import json
import sys

from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.schedule import ALGORITHMS, Mask, VerifiedSchedule, build, describe
from tokenring_xdit.schedule.drawing import draw

__all__ = ["draw_command", "list_command", "show_command"]


def _built(args: argparse.Namespace) -> VerifiedSchedule:
    return build(args.name, args.ranks, Mask.CAUSAL if args.causal else Mask.FULL, args.heads)


def _summary(name: str) -> str:
    """What it does, and its options."""
    algorithm = ALGORITHMS[name]
    options = ((option, "auto" if value is None else value) for option, value in algorithm.options.items())
    return f"{algorithm.summary} [{','.join(f'{option}={value}' for option, value in options)}]"


def list_command(args: argparse.Namespace) -> None:
    """List all schedules."""
    if args.json:
        print(json.dumps(list(ALGORITHMS)))
        return
    width = max(map(len, ALGORITHMS))
    for name in ALGORITHMS:
        print(f"{name:<{width}}  {_summary(name)}")


def show_command(args: argparse.Namespace) -> None:
    """Print a schedule step by step."""
    schedule = _built(args).schedule
    print(json.dumps(schedule.to_dict(), indent=2) if args.json else describe(schedule))


def draw_command(args: argparse.Namespace) -> None:
    """Draw a schedule."""
    picture = draw(_built(args), animated=args.animated)
    if args.output is None:
        sys.stdout.write(picture)
        return
    refuse_unwritable(args.output, f"--output {args.output}")
    write_whole(args.output, picture)
    print(f"picture: {args.output}")
