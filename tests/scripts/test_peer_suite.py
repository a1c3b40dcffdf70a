"""The suite of diffusers' own tests: what it says of tests that pass alone, on a made-up tree of two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.scripts.support import ROOT
from tests.support.peer.suite import Outcome, compare

TREE = '''
import torch

from tokenring_xdit.hosts.diffusers import cut
from tokenring_xdit.pipelines.random_flux import RandomFlux


def drawn():
    pipe = RandomFlux(double=1, single=1, heads=2, head_dim=16).make(torch.float32, torch.device("cpu"))
    pipe.set_progress_bar_config(disable=True)
    sizes = {"height": 64, "width": 80, "num_inference_steps": 2, "max_sequence_length": 8}
    return pipe("a", **sizes, output_type="latent", generator=torch.Generator().manual_seed(0)).images


def test_right():
    assert drawn().isfinite().all()


def test_wrong(monkeypatch):
    """Ranks take tokens of others, of which nobody knows alone."""
    own = cut._own
    monkeypatch.setattr(cut, "_own", lambda whole, dim: own(whole.roll(1, dim), dim))
    assert drawn().isfinite().all()
'''


@pytest.mark.matrix
def test_a_fault_of_ranks_shows_in_a_made_up_tree(tmp_path: Path) -> None:
    folder = tmp_path / "tree" / "tests" / "pipelines" / "made_up"
    folder.mkdir(parents=True)
    (folder / "test_made_up.py").write_text(TREE)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.peer", str(tmp_path / "tree"), "made_up"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "| made_up | 1 | 0 | 0 | 1 | 0 | 0 | 0 | 0 |" in done.stdout, done.stdout
    assert "differs: tests/pipelines/made_up/test_made_up.py::test_wrong" in done.stdout
    assert not list(folder.rglob("*.pyc"))  # nothing is left in the tree


def test_how_a_test_ends_alone_and_sharded() -> None:
    made, other = (np.array([1.0, -2.0]),), (np.array([1.0, -2.0 - 1e-4]),)
    alone = Outcome("passed", made=made)
    same = Outcome("passed", spread=1, made=made)
    no = Outcome("refused", "UnsupportedError: no")
    cases = {
        "same": (alone, [same, same]),
        "not spread": (alone, [alone, alone]),
        "differs": (alone, [same, Outcome("passed", spread=1, made=other)]),
        "refused": (alone, [no, no]),
        "fails": (alone, [Outcome("failed", "AssertionError"), same]),
        "no answer": (alone, [same, None]),
        "failed": (Outcome("failed", "OSError"), [same, same]),
        "skipped": (Outcome("skipped"), [same, same]),
    }
    assert {name: compare("a", *case).result for name, case in cases.items()} == {name: name for name in cases}
    for some in ([same, no], [Outcome("failed", "AssertionError"), no]):  # a refusal is every rank's
        assert compare("a", alone, some).result == "fails"
    fewer = Outcome("passed", spread=1)
    assert compare("a", alone, [fewer, fewer]).result == "differs"  # a call that only one process made
