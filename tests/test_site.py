"""The site of the documents, as ``mkdocs build --strict`` makes it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tokenring_xdit

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; every link that leads nowhere would have failed the build."""
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
        pytest.skip("needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} | {"index", "changelog", "contributing", "security"}
    assert {page.stem for page in site.glob("*.html")} - {"404"} == pages
    assert [page for page in pages if f'href="{page}.html"' not in menu] == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]+)", page.read_text())
        fetched += re.findall(
            r"<link[^>]* rel=\"?(?:stylesheet|preconnect)\"?[^>]* href=\"?(https?:[^\" >]+)", page.read_text()
        )
        assert fetched == [], page.name


def test_the_reference_has_the_public_names(site: Path) -> None:
    page = (site / "reference.html").read_text()
    assert [name for name in tokenring_xdit.__all__ if name != "__version__" and f">{name}<" not in page] == []
    assert "Ranks that TokenRing shards the sequence over." in page
    assert not re.findall(r":(?:class|func|meth|mod|data|attr):", page)


def test_what_is_folded_away_is_read_as_markdown(site: Path) -> None:
    page = (site / "benchmarks.html").read_text()
    folded = re.findall(r"<details>.*?</details>", page, flags=re.DOTALL)
    assert len(folded) > 10
    assert all("<summary>" in each and ("<table>" in each or "<li>" in each or "<p>" in each) for each in folded)


def test_diagrams_are_drawn_for_light_and_for_dark_pages(site: Path) -> None:
    pytest.importorskip("mermaidx")
    page = (site / "architecture.html").read_text()
    assert all(f'<div class="{look}"><svg id="{look}-' in page for look in ("light", "dark"))
    assert "flowchart BT" not in page
