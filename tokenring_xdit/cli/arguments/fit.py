"""Arguments of ``tokenring-xdit fit``."""

from __future__ import annotations

import argparse

from tokenring_xdit.amounts import parse_bytes, parse_tokens
from tokenring_xdit.cli.arguments.ask import MODEL_HELP
from tokenring_xdit.dtypes import DTYPES, parse_dtype
from tokenring_xdit.language_shapes import LANGUAGE_SHAPES

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fit",
        help="print how many tokens of a language model fit into the memory of ranks, before anything is loaded",
        epilog="example: tokenring-xdit fit llama-3.1-8b --ranks 8 --memory 80GB",
    )
    parser.add_argument(
        "model", help=f"{MODEL_HELP}, of which only the configuration is read; or one of {', '.join(LANGUAGE_SHAPES)}"
    )
    parser.add_argument("--ranks", type=int, default=1, help="ranks that share the tokens (default: %(default)s)")
    parser.add_argument(
        "--memory", required=True, type=parse_bytes, metavar="SIZE", help="of each rank, as in 24GiB or 80GB"
    )
    parser.add_argument(
        "--spare",
        type=parse_bytes,
        default="1GiB",
        metavar="SIZE",
        help="part of --memory that stays free for device contexts, libraries and fragmentation, 0B for none "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--tokens", type=parse_tokens, metavar="N", help="print what a prompt of N tokens needs, as in 4096 or 128k"
    )
    parser.add_argument(
        "--chunk",
        type=parse_tokens,
        default="4k",
        metavar="N",
        help="tokens that are computed at a time where a prompt is read in pieces (default: %(default)s)",
    )
    parser.add_argument("--batch", type=int, default=1, help="prompts at a time (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        type=parse_dtype,
        default="bfloat16",
        metavar="DTYPE",
        help=f"of weights and keys: {', '.join(DTYPES)} (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    parser.set_defaults(action="fit:fit_command")
