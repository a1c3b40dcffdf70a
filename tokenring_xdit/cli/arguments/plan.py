"""Arguments of ``tokenring-xdit plan`` and ``tokenring-xdit simulate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenring_xdit.amounts import parse_tokens
from tokenring_xdit.cli.arguments import machine
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.language_shapes import LANGUAGE_SHAPES

__all__ = ["add_parser"]

_IN_PIECES = f"{DEFAULT_SCHEDULE}:chunks=4"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    planning = commands.add_parser(
        "plan",
        help="predict the time of every way to divide the ranks; print the flags of the best",
        epilog="example: tokenring-xdit plan --model flux --size 2048 --topology hgx-h100 --tflops 604, or "
        "tokenring-xdit plan --model llama-3.1-8b --tokens 1m --cached 900k --topology hgx-h100",
    )
    machine.add_arguments(planning)
    planning.add_argument(
        "--cached",
        type=parse_tokens,
        metavar="N",
        help=f"of the --tokens of a language model ({', '.join(LANGUAGE_SHAPES)}), those that were computed before",
    )
    planning.add_argument("--all", action="store_true", help="show all of them, not only the best")
    planning.add_argument("--json", action="store_true", help="print JSON")
    planning.set_defaults(action="plan:plan_command")

    simulation = commands.add_parser(
        "simulate",
        help="simulate one attention call on a topology",
        epilog=f"example: tokenring-xdit simulate {_IN_PIECES} --topology mesh:4:100mbit --tokens 4096 --heads 8 "
        "--head-dim 64 --dtype float32 --trace trace.json",
    )
    simulation.add_argument("schedule", help=f"name of the schedule, with options as in {_IN_PIECES}")
    machine.add_arguments(simulation)
    simulation.add_argument("--causal", action="store_true", help="under a causal mask")
    simulation.add_argument(
        "--trace", type=Path, help="write the timeline here, for ui.perfetto.dev or chrome://tracing"
    )
    simulation.add_argument("--json", action="store_true", help="print JSON, the timeline in it")
    simulation.set_defaults(action="plan:simulate_command")
