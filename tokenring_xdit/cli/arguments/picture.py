"""Arguments that every command which draws a picture has."""

from __future__ import annotations

import argparse

from tokenring_xdit.defaults import LARGEST_SIDE
from tokenring_xdit.dtypes import DTYPES, parse_dtype

__all__ = ["add_picture_options"]


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Add prompt, model and the other options that say what to draw."""
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument(
        "--model", help="folder or hub name of a Flux model; the small one that ships with the package by default"
    )
    parser.add_argument("--size", help="pixels, or WIDTHxHEIGHT; what the model was trained for by default")
    parser.add_argument("--steps", type=int, default=28, help="denoising steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument(
        "--guidance",
        type=float,
        default=3.5,
        help="guidance scale, for models distilled with one (default: %(default)s)",
    )
    parser.add_argument(
        "--largest-side",
        type=int,
        default=LARGEST_SIDE,
        help="pixels that width and height may have; more are taken for a slip of the finger (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        type=parse_dtype,
        metavar="DTYPE",
        help=f"{', '.join(DTYPES)} (default: bfloat16 on GPUs, float32 without)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
