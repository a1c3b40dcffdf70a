"""A program in which xfuser cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import logging, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "xfuser":
            raise ImportError("xfuser is hidden")

sys.meta_path.insert(0, Hidden())
logging.basicConfig(level=logging.INFO, format="%(message)s")

import torch
import tokenring_xdit
from tests.hosts.diffusers.jobs import Case, inputs, latents_of, make
from tests.support.reference import relative_error

case = Case("qwen-image")
with torch.no_grad():
    expected = latents_of(make(case)(**inputs(case, {})))
    pipe = tokenring_xdit.parallelize(make(case), tokenring_degree=2)
    error = relative_error(latents_of(pipe(**inputs(case, {}))), expected)
assert error <= 1e-5, error
assert not any(name.partition(".")[0] == "xfuser" for name in sys.modules), "it was imported"
print("exact")
torch.distributed.destroy_process_group()
"""


@pytest.mark.e2e
def test_diffusers_needs_no_xfuser(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "program.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENRING_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("exact") == 2
    said = "parallelize: host diffusers for the QwenImagePipeline, as the other cannot (xfuser: it is not installed)"
    assert found.stderr.count(said) == 1
