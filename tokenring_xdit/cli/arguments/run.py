"""Arguments of ``tokenring-xdit run``."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="draw what a YAML config says",
        description="Draw what a YAML config says. Starts as many ranks as its degrees make up; under torchrun it is "
        "one of the ranks.",
        epilog='example: tokenring-xdit run configs/embedded.yaml prompt="two green squares side by side" seed=3',
    )
    parser.add_argument("config", type=Path, help="the YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the file")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(action="run:run_command")
