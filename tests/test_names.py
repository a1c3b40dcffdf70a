"""Names of the package's own classes."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import tokenring_xdit

ROOT = Path(tokenring_xdit.__file__).parent


def test_no_two_classes_have_the_same_name() -> None:
    """So that whoever searches for a name finds one thing."""
    trees = [ast.parse(path.read_text()) for path in ROOT.rglob("*.py")]
    names = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert len(names) > 100
    assert [name for name, times in names.items() if times > 1] == []
