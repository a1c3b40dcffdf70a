"""Who may know of the emulated networks and of what was fitted to them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tokenring_xdit
from tokenring_xdit.lab.network import rank_variables

PACKAGE = Path(tokenring_xdit.__file__).parent
ALLOWED = {"bench", "cli", "lab"}


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


def test_only_benchmarks_and_commands_import_the_lab() -> None:
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


def test_ranks_in_emulated_networks_see_no_gpu() -> None:
    """What GPUs send each other would not go over the links."""
    emulated: Any = SimpleNamespace(address=lambda host: "10.0.0.1", network=SimpleNamespace(hosts=("h0", "h1")))
    assert rank_variables(emulated, 1, 2, "file:///store")["CUDA_VISIBLE_DEVICES"] == ""
