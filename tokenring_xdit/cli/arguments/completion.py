"""Arguments of ``tokenring-xdit completion``."""

from __future__ import annotations

import argparse

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], whole: argparse.ArgumentParser) -> None:
    """Add the command.

    Args:
        commands: Where to.
        whole: The parser of all commands, which is completed.
    """
    parser = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        epilog='example: eval "$(tokenring-xdit completion bash)", in ~/.bashrc',
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    parser.set_defaults(action="completion:completion_command", whole=whole)
