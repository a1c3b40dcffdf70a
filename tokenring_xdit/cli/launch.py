"""``tokenring-xdit launch``: the launch scripts, wherever the package is installed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from tokenring_xdit.errors import ConfigurationError, LaunchError
from tokenring_xdit.shipped import SCRIPTS

__all__ = ["add_parser", "run_script"]

_KINDS = {
    "node": ("launch-node.sh", "start a run, or a program of yours, on the GPUs of this node"),
    "nodes": ("launch-nodes.sh", "start the ranks of this node in a run on several nodes"),
    "slurm": ("slurm.sbatch", "submit a run on several nodes as a job of SLURM"),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands; what follows those is the scripts' own."""
    parser = commands.add_parser(
        "launch",
        help="start ranks on the GPUs of a node, of several nodes, or under SLURM",
        epilog="example: tokenring-xdit launch node --dry-run config.yaml steps=20. 'launch KIND --help' lists the "
        "options; options of sbatch (--nodes=2 --gpus-per-node=8) stand first after 'slurm'.",
    )
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    for kind, (_, purpose) in _KINDS.items():
        kinds.add_parser(kind, help=purpose, add_help=False)


def run_script(typed: Sequence[str]) -> None:
    """Become the script that was asked for, where one was; its own options may look like options of the command.

    Args:
        typed: The command line.

    Raises:
        ConfigurationError: A word after ``slurm`` is missing.
        LaunchError: There is no bash, or no sbatch, here.
    """
    if len(typed) < 2 or typed[0] != "launch" or typed[1] not in _KINDS:
        return
    kind, words = typed[1], list(typed[2:])
    script = str(SCRIPTS / _KINDS[kind][0])
    os.environ.setdefault("PYTHON", sys.executable)
    if kind == "slurm" and not {"--help", "--dry-run"} & set(words[:1]):
        first = next((at for at, word in enumerate(words) if not word.startswith("-")), None)
        if first is None:
            raise ConfigurationError(
                "launch slurm needs a config after the options of sbatch, as in --nodes=2 --gpus-per-node=8 config.yaml"
            )
        os.environ["TOKENRING_SCRIPTS"] = str(SCRIPTS)  # sbatch runs a copy of its script, and hands this on
        command = ["sbatch", *words[:first], script, *words[first:]]
    else:
        command = ["bash", script, *words]
    if shutil.which(command[0]) is None:
        raise LaunchError(f"there is no command '{command[0]}' here, which launch {kind} needs")
    os.execvp(command[0], command)
