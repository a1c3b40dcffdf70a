"""Arguments of ``tokenring-xdit network``."""

from __future__ import annotations

import argparse

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "network",
        help="check an emulated network, or remove one",
        epilog="example: tokenring-xdit network check mesh:4:100mbit",
    )
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    check = subcommands.add_parser(
        "check",
        help="build a network, measure each link of it, remove it (needs root)",
        epilog="example: tokenring-xdit network check mesh:4:100mbit",
    )
    check.add_argument(
        "network",
        help="mesh:N:RATE, star:N:RATE, ring:N:RATE, two-level:GxN:INNER:OUTER, or a YAML file; rates as in 100mbit",
    )
    check.add_argument("--json", action="store_true", help="print JSON; rates in bits a second")
    check.set_defaults(action="network:check_command")

    clean = subcommands.add_parser(
        "clean",
        help="remove networks whose processes were killed (needs root)",
        epilog="example: tokenring-xdit network clean",
    )
    clean.add_argument("--json", action="store_true", help="print JSON")
    clean.set_defaults(action="network:clean_command")
