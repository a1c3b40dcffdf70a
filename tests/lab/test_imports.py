"""Who may know of the emulated networks and of what was fitted to them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tokenring_xdit

PACKAGE = Path(tokenring_xdit.__file__).parent
ALLOWED = {"bench", "cli", "doctor", "lab"}


def imported(source: str) -> Iterator[str]:
    """Every module that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "the package imports by full names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_the_lab(source: str) -> bool:
    return any(f"{name}.".startswith("tokenring_xdit.lab.") for name in imported(source))


def test_only_benchmarks_commands_and_the_doctor_import_the_lab() -> None:
    rooms = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if "scripts" not in path.relative_to(PACKAGE).parts and of_the_lab(path.read_text(encoding="utf-8"))
    }
    assert rooms == ALLOWED


def test_an_import_of_the_lab_is_found_wherever_it_stands() -> None:
    assert of_the_lab("def later():\n    from tokenring_xdit.lab.effects import LabEffects\n")
    assert of_the_lab("from tokenring_xdit import lab")
    assert not of_the_lab("from tokenring_xdit.labels import lab")
