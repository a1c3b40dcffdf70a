"""A host that has never heard of xfuser gets a call of all ranks: exact, agreed on, refused alike."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import a_host
from tests.support.ranks import RankPool

TOLERANCE = 1e-5

HOSTS = Path(__file__).parents[2] / "tokenring_xdit" / "hosts"

NEUTRAL = sorted(path.stem for path in HOSTS.glob("*.py") if path.stem != "__init__")


def test_what_hosts_share_imports_none_of_them() -> None:
    code = f"""
import sys
for name in {NEUTRAL}:
    __import__(f"tokenring_xdit.hosts.{{name}}")
import tests.hosts.a_host
print(*{{name.partition(".")[0] for name in sys.modules}} & {{"xfuser", "diffusers", "transformers"}})
"""
    environment = {"TOKENRING_AUTOLOAD": "0", "PYTHONPATH": str(HOSTS.parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_hosts_share_names_no_host(name: str) -> None:
    imported = [
        module
        for node in ast.walk(ast.parse((HOSTS / f"{name}.py").read_text()))
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    ]
    folders = {path.name for path in HOSTS.iterdir() if path.is_dir()} | {"diffusers"}
    assert not [module for module in imported if set(module.split(".")) & folders]


@pytest.mark.smoke
@pytest.mark.parametrize("count", [2, 3])
def test_every_rank_gets_what_one_process_makes(ranks: RankPool, count: int) -> None:
    errors = ranks.run(count, a_host.called, "EVERY_RANK")
    assert max(errors) <= TOLERANCE


def test_the_first_rank_alone(ranks: RankPool) -> None:
    first, other = ranks.run(2, a_host.called, "FIRST_RANK")
    assert first <= TOLERANCE
    assert other is None


def test_what_differs_is_refused_on_all_ranks(ranks: RankPool, tmp_path: Path) -> None:
    for rank, said in enumerate(ranks.run(2, a_host.refusals, tmp_path)):
        assert "scale is 1.0 on rank 0 and 2.0 on rank 1" in said["arguments"]
        assert "APipeline cannot be called like this: got an unexpected keyword argument 'size'" in said["signature"]
        assert "this pipeline was made parallel before" in said["again"]
        assert "rank 1 refuses: the model is in training mode" in said["one rank"]
        assert "model.project differs between rank 0 and rank 1" in said["weights"]
        assert "rank 1 refuses: object was not compared" in said["class"], rank
    assert (tmp_path / "saved").exists()
