"""Which command was typed, and what became of it."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence

from tokenring_xdit import __version__
from tokenring_xdit.cli import (
    bench,
    compare,
    completion,
    config,
    generate,
    launch,
    network,
    plan,
    probe,
    run,
    schedule,
    topology,
)
from tokenring_xdit.errors import (
    CommunicationError,
    LaunchError,
    NetworkError,
    OutputError,
    RegressionError,
    TokenRingError,
)
from tokenring_xdit.messages import escaped

__all__ = ["run_command"]

_EXIT_FAILED, _EXIT_REFUSED = 1, 2

_LINE_END = "\n"


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it did what was asked, 1 when it failed while running, 2 when it refused before starting.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="tokenring-xdit",
        description="Sequence-parallel attention for diffusion transformers: TokenRing for xDiT.",
        epilog='example: tokenring-xdit generate "a red circle left of a blue square" --tokenring-degree 4',
    )
    parser.add_argument("--version", action="version", version=f"tokenring-xdit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (generate, run, compare, config, launch, schedule, plan, topology, probe, network, bench):
        module.add_parser(commands)
    completion.add_parser(commands, parser)
    typed = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        launch.run_script(typed)
        args = parser.parse_args(
            bench.spelled_out(typed), argparse.Namespace(command=shlex.join(["tokenring-xdit", *typed]))
        )
        args.run(args)
    except (LaunchError, CommunicationError, NetworkError, OutputError, RegressionError, OSError) as error:
        return _say(error, _EXIT_FAILED)
    except TokenRingError as error:
        return _say(error, _EXIT_REFUSED)
    return 0


def _say(error: Exception, code: int) -> int:
    """Print an error, without what a terminal would obey: messages quote what users wrote."""
    print(f"tokenring-xdit: {escaped(str(error), keep=_LINE_END)}", file=sys.stderr)
    return code
