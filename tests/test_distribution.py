"""What is handed out: the source archive, the wheel that is built from it, and the wheel alone in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive and the wheel."""
    folder, checkout = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("checkout") / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if files.returncode:
        pytest.skip("this is no checkout")
    for name in filter(None, files.stdout.decode().split("\0")):
        target = checkout / name
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                target.symlink_to((ROOT / name).readlink())
            else:
                target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a program that finds the package in the wheel, and nowhere else before."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


AS_A_MODULE = ("-m", "tokenring_xdit")
AS_THE_COMMAND = ("-c", "import sys; sys.path.pop(0); from tokenring_xdit.cli import main; sys.exit(main())")


def run(installed: dict[str, str], folder: Path, *words: str, started: tuple[str, str] = AS_A_MODULE) -> str:
    done = subprocess.run(
        [sys.executable, *started, *words],
        cwd=folder,
        env=installed,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_archive_holds_what_the_repository_does(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"}
    wanted |= {"mkdocs.yml", "pyproject.toml"}
    for folder in ("configs", "docs", "scripts", "tests"):
        wanted |= {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    assert wanted <= inside


def test_the_wheel_holds_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    package = ROOT / "tokenring_xdit"
    wanted = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    for name in ("configs/*.yaml", "configs/sweeps/*.yaml", "scripts/launch-*.sh", "scripts/slurm.sbatch"):
        wanted |= {package / "shipped" / path.relative_to(ROOT) for path in ROOT.glob(name)}
    wanted = {path for path in wanted if path.suffix != ".py" or package / "shipped/scripts" not in path.parents}
    assert {str(path.relative_to(ROOT)) for path in wanted} <= inside
    assert not any(name.startswith(("tests", "tokenring_xdit/shipped/scripts/train")) for name in inside)


def test_the_wheel_alone_copies_a_config_and_draws(installed: dict[str, str], tmp_path: Path) -> None:
    assert run(installed, tmp_path, "config", "copy", "embedded") == "embedded.yaml\n"
    run(installed, tmp_path, "run", "embedded.yaml", "steps=1", "tokenring_degree=1", "output=picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    script = run(installed, tmp_path, "launch", "node", "--cpu", "--ranks=2", "--dry-run", "embedded.yaml")
    assert script.endswith("-m tokenring_xdit.cli run embedded.yaml\n")
    assert "properties" in run(installed, tmp_path, "config", "schema", "--json")


@pytest.mark.parametrize("name", ["html.py", "queue.py"])
@pytest.mark.matrix
def test_files_of_the_working_folder_are_not_imported(name: str, installed: dict[str, str], tmp_path: Path) -> None:
    """By ranks; ``python -m`` itself looks there first, the command does not."""
    (tmp_path / name).write_text("raise SystemExit('a file of the user')\n")
    config = str(ROOT / "configs" / "embedded.yaml")
    run(installed, tmp_path, "run", config, "steps=1", "output=picture.png", started=AS_THE_COMMAND)


def test_the_description_has_no_links_that_lead_nowhere_outside_the_repository(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        description = files.read(name).decode()
    assert "Description-Content-Type: text/markdown" in description
    assert "`docs/quickstart.md`" in description
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", description) == []
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"\]\(https://[^)]*\)", description) == re.findall(r"\]\(https://[^)]*\)", readme)
