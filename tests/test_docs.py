"""What the documentation quotes is what the package says."""

from __future__ import annotations

import ast
import re
import runpy
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tokenring_xdit.schedule import ALGORITHMS

ROOT = Path(__file__).parents[1]

PICTURES = ROOT / "docs" / "images" / "schedules"

FOREIGN = {"unrecognized arguments: --tokenring_degree", "rank … failed: OutOfMemoryError: …"}
"""Messages of argparse and torch."""

QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), flags=re.MULTILINE)


@cache
def messages() -> list[str]:
    """All texts in the package's code, with … for what is filled in."""
    found = []
    for path in (ROOT / "tokenring_xdit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


@pytest.mark.parametrize("heading", [heading for heading in QUOTED if heading not in FOREIGN])
def test_troubleshooting_quotes_real_messages(heading: str) -> None:
    said = heading.strip("… ")
    assert any(said in message for message in messages())


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("picture", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.stem)
def test_pictures_show_the_schedules_as_they_are(picture: Path) -> None:
    redrawn = runpy.run_path(str(ROOT / "scripts" / "draw_schedules.py"))["redrawn"]
    assert picture.read_text() == redrawn(picture), "python scripts/draw_schedules.py draws it again"


def test_every_schedule_has_a_picture_on_its_page_and_no_picture_is_left_over() -> None:
    shown = re.findall(r"\]\(images/schedules/([^)]+)\)", (ROOT / "docs" / "schedules.md").read_text())
    assert sorted(shown) == sorted(path.name for path in PICTURES.iterdir())
    assert {ET.parse(PICTURES / name).getroot().attrib["data-schedule"].partition(":")[0] for name in shown} == set(
        ALGORITHMS
    )


def test_every_schedule_has_a_row_and_a_section() -> None:
    page = (ROOT / "docs" / "schedules.md").read_text()
    rows = re.findall(r"^\| `(\w+)`", page.partition("## What travels")[2].partition("\n\n**")[0], flags=re.MULTILINE)
    headings = re.findall(r"^### (.+)$", page, flags=re.MULTILINE)
    assert sorted(rows) == sorted(ALGORITHMS) == sorted(re.findall(r"`(\w+)`", " ".join(headings)))
