"""Arguments of ``tokenring-xdit compare``."""

from __future__ import annotations

import argparse

from tokenring_xdit.defaults import DEFAULT_SCHEDULE

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="draw the same picture with every strategy and lay the results side by side",
        description="Draw the same picture on one rank, with Ulysses, with xfuser's Ring and with TokenRing by turns, "
        "and lay the results side by side. 'bench' measures any strategies, sizes and numbers of ranks.",
        epilog='example: tokenring-xdit compare "a red circle left of a blue square" --ranks 4 --output sheet.png',
    )
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument("--model", default="embedded", help="folder or hub name of a Flux model (default: %(default)s)")
    parser.add_argument("--size", help="pixels, or WIDTHxHEIGHT; what the model was trained for by default")
    parser.add_argument("--steps", default="28", help="denoising steps (default: %(default)s)")
    parser.add_argument("--seed", default="0", help="seed of the noise (default: %(default)s)")
    parser.add_argument(
        "--guidance", default="3.5", help="guidance scale, for models distilled with one (default: %(default)s)"
    )
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on GPUs, float32 without)")
    parser.add_argument("--ranks", type=int, default=4, help="ranks of each strategy (default: %(default)s)")
    parser.add_argument("--rounds", default="3", help="timed rounds, strategies taking turns (default: %(default)s)")
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
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(action="compare:compare_command")
