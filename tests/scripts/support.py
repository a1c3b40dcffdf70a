"""The launch scripts as a user starts them, on a machine with the GPUs that a test wants."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
TOPOLOGIES = Path(__file__).parent / "topologies"
RING_ATTENTION = Path(__file__).parent / "ring_attention.py"

INTERPRETER = f"{sys.executable} -P" if sys.version_info >= (3, 11) else sys.executable
"""What the scripts start modules with."""

_THEIRS = ("CUDA_", "NCCL_", "GLOO_", "SLURM_", "OMP_", "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE")
_TOOLS = ("awk", "basename", "bash", "cat", "cut", "dirname", "env", "getent", "ip", "nproc", "sed", "tr", "wc")


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who has set nothing of what the scripts set, except ``more``."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_THEIRS)}
    return ours | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | more


def image_stages() -> dict[str, list[list[str]]]:
    """The instructions of the container file, by the name of their stage."""
    text = (ROOT / "deploy" / "Containerfile").read_text().replace("\\\n", " ")
    stages: dict[str, list[list[str]]] = {}
    for words in (shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")):
        if words[0] == "FROM":
            own = stages[words[-1]] = []
        else:
            own.append(words)
    return stages


def run(script: str, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script of ``scripts/`` to its end; ``more`` are variables that the user has set."""
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(**more),
        check=False,
    )


def path_with(folder: Path, **programs: str) -> str:
    """A PATH with what the scripts need of any Linux, and with these programs, given as shell scripts."""
    for tool in _TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name, text in programs.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    return str(folder)


def nvidia_smi(topology: Path) -> str:
    """An nvidia-smi that knows one command: the one whose output was recorded."""
    return f'[ "$*" = "topo -m" ] && cat {topology}'
