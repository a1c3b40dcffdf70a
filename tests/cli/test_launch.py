from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.support import TOPOLOGIES, environment
from tokenring_xdit.cli import main
from tokenring_xdit.shipped import SCRIPTS


def launch(*words: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokenring_xdit", "launch", *words],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.e2e
def test_options_after_the_kind_are_the_script_s_own(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: embedded\nprompt: [a red circle]\ntokenring_degree: 8\n")
    planned = launch("node", "--dry-run", f"--nvidia-smi={TOPOLOGIES / 'dgx-1.txt'}", "run.yaml", folder=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "CUDA_VISIBLE_DEVICES=0,3,2,1,5,6,7,4 " in planned.stdout
    assert planned.stdout.endswith(" -m tokenring_xdit.cli run run.yaml\n")
    for words in (["node", "--", "x.py"], ["node", "--cpu", "--ranks=2", "--help"]):
        assert "usage: bash scripts/launch-node.sh" in launch(*words[:1], "--help", *words[1:], folder=tmp_path).stdout


def test_options_of_sbatch_stand_before_the_config(tmp_path: Path) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!{sys.executable}\nimport os, sys\nprint(sys.argv[1:], os.environ["TOKENRING_SCRIPTS"])\n')
    sbatch.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = launch("slurm", "--nodes=2", "--gpus-per-node=8", "run.yaml", "steps=4", folder=tmp_path, PATH=path)
    words = ["--nodes=2", "--gpus-per-node=8", str(SCRIPTS / "slurm.sbatch"), "run.yaml", "steps=4"]
    assert done.stdout == f"{words} {SCRIPTS}\n"
    assert "launch slurm needs a config" in launch("slurm", "--nodes=2", folder=tmp_path, PATH=path).stderr
    planned = launch("slurm", "--dry-run", "run.yaml", folder=tmp_path, PATH=path)
    assert f"bash {SCRIPTS.resolve()}/launch-nodes.sh --nodes NODES" in planned.stdout.replace(
        str(SCRIPTS), str(SCRIPTS.resolve())
    )


def test_a_command_that_is_not_here_is_named(tmp_path: Path) -> None:
    done = launch("slurm", "run.yaml", folder=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "tokenring-xdit: there is no command 'sbatch' here, which launch slurm needs\n"


def test_kinds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["launch", "--help"], ["launch", "nothing"]):
        with pytest.raises(SystemExit):
            main(words)
    said = capsys.readouterr()
    assert "launch node --dry-run config.yaml" in " ".join(said.out.split())
    assert "invalid choice: 'nothing'" in said.err
