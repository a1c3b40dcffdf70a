"""Arguments of ``tokenring-xdit launch``."""

from __future__ import annotations

import argparse

from tokenring_xdit.cli.launch import KINDS

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands; what follows those is the scripts' own."""
    parser = commands.add_parser(
        "launch",
        help="start ranks on the GPUs of a node, of several nodes, or under SLURM",
        epilog="example: tokenring-xdit launch node --dry-run config.yaml steps=20. 'launch KIND --help' lists the "
        "options; options of sbatch (--nodes=2 --gpus-per-node=8) stand first after 'slurm'.",
    )
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    for kind, (_, purpose) in KINDS.items():
        kinds.add_parser(kind, help=purpose, add_help=False)
