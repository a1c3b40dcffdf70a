from __future__ import annotations

from pathlib import Path

from tests.support.compatibility import with_row

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"


def test_a_run_has_one_row() -> None:
    once = with_row(PAGE.read_text(), 123456, 0)
    assert sum("| 123456 | 0 |" in line for line in once.splitlines()) == 1
    twice = with_row(once, 123457, 1)
    assert "123456" not in twice
    assert len(once.splitlines()) == len(twice.splitlines())
    assert len(set(once.splitlines()) - set(twice.splitlines())) == 1
