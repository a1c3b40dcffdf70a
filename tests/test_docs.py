"""What the documentation quotes is what the package says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOREIGN = {"unrecognized arguments: --tokenring_degree", "rank … failed: OutOfMemoryError: …"}
"""Messages of argparse and torch."""

QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), flags=re.MULTILINE)


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
