"""The table of ``docs/compatibility.md``: with which versions all tests of the default run have passed."""

from __future__ import annotations

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

__all__ = ["record", "with_row"]

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "numpy", "pillow", "protobuf", "pydantic", "xfuser")

_HEADER = f"| Python | {' | '.join(LIBRARIES)} | passed | skipped | on |"


def with_row(page: str, passed: int, skipped: int) -> str:
    """The page with a row for what is installed; it takes the place of an earlier one for the same versions.

    Args:
        page: Its text.
        passed: Tests that passed; none failed.
        skipped: Tests that were skipped.
    """
    versions = [platform.python_version(), *map(version, LIBRARIES)]
    start = f"| {' | '.join(versions)} |"
    row = f"{start} {passed} | {skipped} | {date.today().isoformat()} |"
    before, header, table = page.partition(_HEADER)
    assert header, "the page has no table"
    rule, *rows = table.strip("\n").split("\n")
    rows = sorted({*(old for old in rows if not old.startswith(start)), row})
    return "\n".join([before + header, rule, *rows]) + "\n"


def record(file: Path, passed: int, skipped: int) -> None:
    """Put a row into the page."""
    file.write_text(with_row(file.read_text(encoding="utf-8"), passed, skipped), encoding="utf-8")
