"""Which command was typed, and what became of it."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence

from tokenring_xdit import __version__
from tokenring_xdit.cli.arguments import COMMANDS, bench, completion
from tokenring_xdit.cli.launch import run_script
from tokenring_xdit.errors import (
    CommunicationError,
    LaunchError,
    NetworkError,
    OutputError,
    RegressionError,
    TokenRingError,
)
from tokenring_xdit.messages import escaped

__all__ = ["read_command", "run_command", "whole_parser"]

_EXIT_FAILED, _EXIT_REFUSED = 1, 2

_LINE_END = "\n"


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it did what was asked, 1 when it failed while running, 2 when it refused before starting.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    typed = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        run_script(typed)
        args = read_command(typed)
        _action(args.action)(args)
    except (LaunchError, CommunicationError, NetworkError, OutputError, RegressionError, OSError) as error:
        return _say(error, _EXIT_FAILED)
    except TokenRingError as error:
        return _say(error, _EXIT_REFUSED)
    return 0


def read_command(typed: Sequence[str]) -> argparse.Namespace:
    """Read a command line; mistakes end the process, as argparse does.

    What has no name may stand behind options, where the parser names what takes it as ``late``: before Python 3.12.7
    argparse gives an argument that may be left out nothing once an option has come.

    Args:
        typed: The words behind ``tokenring-xdit``.
    """
    parser = whole_parser()
    command = shlex.join(["tokenring-xdit", *typed])
    args, rest = parser.parse_known_args(bench.spelled_out(typed), argparse.Namespace(command=command, late=None))
    plain = not any(word.startswith("-") for word in rest)
    if rest[:1] == ["--"]:  # behind it nothing is an option
        rest, plain = rest[1:], True
    if rest and args.late is not None and plain:
        before = getattr(args, args.late)
        if isinstance(before, list):
            setattr(args, args.late, [*before, *rest])
            rest = []
        elif before is None and len(rest) == 1:
            setattr(args, args.late, rest.pop())
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def whole_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="tokenring-xdit",
        description="Sequence-parallel attention for diffusion transformers: TokenRing for xDiT.",
        epilog='example: tokenring-xdit run --prompt "a red circle left of a blue square" --tokenring-degree 4',
    )
    parser.add_argument("--version", action="version", version=f"tokenring-xdit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"tokenring_xdit.cli.arguments.{name}").add_parser(commands)
    completion.add_parser(commands, parser)
    _describe(commands)
    return parser


def _describe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Have each ``--help`` begin with what the list of commands says, where a command says no more of itself."""
    for listed in commands._choices_actions:
        parser = commands.choices[listed.dest]
        if parser.description is None and listed.help is not None:
            parser.description = f"{listed.help[0].upper()}{listed.help[1:]}."
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                _describe(action)


def _action(name: str) -> Callable[[argparse.Namespace], None]:
    """What carries a command out, imported now that it is asked for: it may import torch."""
    module, _, function = name.partition(":")
    action: Callable[[argparse.Namespace], None] = getattr(
        importlib.import_module(f"tokenring_xdit.cli.{module}"), function
    )
    return action


def _say(error: Exception, code: int) -> int:
    """Print an error, without what a terminal would obey: messages quote what users wrote."""
    print(f"tokenring-xdit: {escaped(str(error), keep=_LINE_END)}", file=sys.stderr)
    return code
