"""``tokenring-xdit launch``: the launch scripts, wherever the package is installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from tokenring_xdit.errors import ConfigurationError, LaunchError
from tokenring_xdit.shipped import SCRIPTS

__all__ = ["KINDS", "run_script"]

KINDS = {
    "node": ("launch-node.sh", "start a run, or a program of yours, on the GPUs of this node"),
    "nodes": ("launch-nodes.sh", "start the ranks of this node in a run on several nodes"),
    "slurm": ("slurm.sbatch", "submit a run on several nodes as a job of SLURM"),
}
"""Scripts by the word that names them, and what each is for."""


def run_script(typed: Sequence[str]) -> None:
    """Become the script that was asked for, where one was; its own options may look like options of the command.

    Args:
        typed: The command line.

    Raises:
        ConfigurationError: A word after ``slurm`` is missing.
        LaunchError: There is no bash, or no sbatch, here.
    """
    if len(typed) < 2 or typed[0] != "launch" or typed[1] not in KINDS:
        return
    kind, words = typed[1], list(typed[2:])
    script = str(SCRIPTS / KINDS[kind][0])
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
