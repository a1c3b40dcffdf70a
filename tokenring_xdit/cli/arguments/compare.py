"""Arguments of ``tokenring-xdit compare``."""

from __future__ import annotations

import argparse

from tokenring_xdit.defaults import DEFAULT_SCHEDULE

__all__ = ["OF_PICTURES", "OF_TEXTS", "add_parser"]

OF_PICTURES = {"size": None, "steps": "28", "guidance": "3.5", "schedule": DEFAULT_SCHEDULE}
"""Flags that only pictures have, and what they are if nobody says."""

OF_TEXTS = {"context": None, "max_new_tokens": "32"}
"""Likewise of language models."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="generate the same picture (or text) with every strategy, side by side",
        description="Generate the same picture on one rank, with Ulysses, with xfuser's Ring and with TokenRing, in "
        "turns, and show the results side by side. With a language model: the answer of one process and of ranks that "
        "share the tokens, by each strategy. 'bench' measures any strategies, sizes and numbers of ranks.",
        epilog='example: tokenring-xdit compare "a red circle left of a blue square" --ranks 4 --output sheet.png, or '
        'tokenring-xdit compare "What is this about?" --model smollm2 --context README.md --ranks 2',
    )
    parser.add_argument("prompt", help="the prompt: a picture, or a question")
    parser.add_argument(
        "--model",
        default="embedded",
        help="folder or hub name of a Flux model, or of a language model, or smollm2 (default: %(default)s)",
    )
    parser.add_argument("--size", help="pixels, or WIDTHxHEIGHT; what the model was trained for by default")
    parser.add_argument("--steps", help=f"denoising steps (default: {OF_PICTURES['steps']})")
    parser.add_argument("--seed", default="0", help="seed of the noise (default: %(default)s)")
    parser.add_argument(
        "--guidance", help=f"guidance scale, for models distilled with one (default: {OF_PICTURES['guidance']})"
    )
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on GPUs, float32 without)")
    parser.add_argument("--ranks", type=int, default=4, help="ranks of each strategy (default: %(default)s)")
    parser.add_argument("--rounds", default="3", help="timed rounds, strategies taking turns (default: %(default)s)")
    parser.add_argument(
        "--schedule",
        help=f"schedule of the TokenRing ranks of a picture, see schedule list (default: {DEFAULT_SCHEDULE})",
    )
    parser.add_argument("--context", metavar="FILE", help="of a language model: a text before the question, in UTF-8")
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        help=f"of a language model: tokens of an answer to compare, 0 for none (default: {OF_TEXTS['max_new_tokens']})",
    )
    parser.add_argument(
        "--output",
        help="the contact sheet; the JSON goes beside it (default: outputs/compare.png; of a language model the JSON, "
        "outputs/compare.json)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(action="compare:compare_command")
