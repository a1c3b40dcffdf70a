"""Arguments of ``tokenring-xdit score``."""

from __future__ import annotations

import argparse

from tokenring_xdit.cli.arguments.ask import MODEL_HELP
from tokenring_xdit.dtypes import DTYPES, parse_dtype

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "score",
        help="print log-probability and perplexity of a long text that is sharded over several ranks",
        epilog="example: tokenring-xdit score smollm2 README.md --ranks 2",
    )
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("file", metavar="FILE", help="the text, in UTF-8")
    parser.add_argument("--ranks", type=int, default=1, help="ranks that share the tokens (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        type=parse_dtype,
        metavar="DTYPE",
        help=f"{', '.join(DTYPES)} (default: bfloat16 on GPUs, float32 without)",
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    parser.set_defaults(action="score:score_command")
