"""Arguments of ``tokenring-xdit score``."""

from __future__ import annotations

import argparse

from tokenring_xdit.cli.arguments.ask import add_model

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "score",
        help="print log-probability and perplexity of a long text that is sharded over several ranks",
        epilog="example: tokenring-xdit score smollm2 README.md --ranks 2",
    )
    add_model(parser)
    parser.add_argument("file", metavar="FILE", help="the text, in UTF-8")
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    parser.set_defaults(action="score:score_command")
