from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub import OFFLINE

PROGRAM = """
import sys
import torch.distributed as dist
import tokenring_xdit
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from diffusers import FluxPipeline

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
tokenring_xdit.parallelize(FluxPipeline.from_pretrained(str(MODEL_PATH)), host="xfuser")
import xfuser
from xfuser.logger import init_logger

for level in ("debug", "warning", "error"):
    getattr(init_logger("xfuser.some.module"), level)("said at level " + level)
"""


@pytest.mark.parametrize("level", [None, pytest.param("debug", marks=pytest.mark.matrix)])
@pytest.mark.e2e
def test_a_program_of_one_s_own_hears_errors_unless_it_asks_for_more(level: str | None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LOG_LEVEL"} | OFFLINE
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "rendezvous")],
        env=environment | ({} if level is None else {"LOG_LEVEL": level}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "said at level error" in done.stdout
    assert ("said at level debug" in done.stdout) == ("DEBUG" in done.stdout) == (level == "debug")
    assert ("said at level warning" in done.stdout) == (level == "debug")


@pytest.mark.e2e
def test_the_command_with_tokenring_has_no_debug_lines(tmp_path: Path) -> None:
    """And ends in one sentence where the hub cannot be asked."""
    environment = {name: value for name, value in os.environ.items() if name not in {"LOG_LEVEL", "RANK"}} | OFFLINE
    environment.pop("TRANSFORMERS_VERBOSITY", None)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("xdit")), "--model", "FLUX.1-dev", "--prompt=a", "--tokenring_degree=2"],
        env=environment | {"HF_HUB_CACHE": str(tmp_path), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).splitlines()
    # xfuser warns of what a diffusers does not have; that is worth hearing.
    said = [line for line in lines if line.strip() and not line.startswith("WARNING")]
    assert len(said) == 1, said
    assert said[0].startswith("xdit: there is no model folder 'black-forest-labs/FLUX.1-dev'")
    assert "the hub cannot be reached" in said[0]
