"""``tokenring-xdit completion``: completion for shells."""

from __future__ import annotations

import argparse

import shtab

__all__ = ["completion_command"]


def completion_command(args: argparse.Namespace) -> None:
    """Print a completion script."""
    print(shtab.complete(args.whole, shell=args.shell))
