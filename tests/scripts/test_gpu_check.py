"""``scripts/gpu_check.sh``: what it exits with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("doctor", "tests", "status"), [(0, 0, 0), (1, 0, 1), (0, 124, 0), (1, 124, 1), (0, 1, 1), (2, 124, 2)]
)
def test_tests_that_were_cut_off_are_no_fault_of_the_machine(
    tmp_path: Path, doctor: int, tests: int, status: int
) -> None:
    programs = {
        "nvidia-smi": "exit 0",
        "timeout": f'case "$*" in *nvidia-smi*) exit 0 ;; esac; exit {tests}',
        "python": f'case "$*" in *doctor*) exit {doctor} ;; esac',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python"}
    done = subprocess.run(
        ["bash", "scripts/gpu_check.sh"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("were cut off" in done.stderr) == (tests == 124 and doctor != 2)
