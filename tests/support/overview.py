"""The yes and no at the top of ``docs/support.md``, read off the matrices below it and off ``docs/diffusers.md``.

python -m tests.support.overview
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.families import ALL_FAMILIES
from tests.support.small import small

__all__ = ["DOCS", "overview", "with_overview"]

DOCS = Path(__file__).parents[2] / "docs"

BEGIN, END = "<!-- overview -->", "<!-- end of the overview -->"

_TOGETHER = {
    "TokenRing": "TokenRing 2",
    "any size": "TokenRing 3, any size",
    "with Ulysses": "Ulysses 2 x TokenRing 2, any size",
    "bf16": "TokenRing 2, bf16",
}

_APART = {
    "CFG parallel": "CFG 2 x TokenRing 2",
    "data parallel (xfuser's own pipelines)": "Data parallel 2 x TokenRing 2",
    "PipeFusion": "PipeFusion 2 x TokenRing 2, in order",
}


def overview(support: str, diffusers: str) -> str:
    """A row for each pipeline.

    Args:
        support: The text of ``docs/support.md``.
        diffusers: That of ``docs/diffusers.md``.
    """
    together = _matrix(support.partition("## `parallelize`")[2])
    apart = _matrix(support.partition("## xfuser's own pipelines")[2])
    compared = set(re.findall(r"^\| ([\w.-]+) \| \d\.\d", diffusers, flags=re.MULTILINE))
    classes = {small(key).runs for key in compared}  # hosts have keys of their own; a class is the same in all of them
    alone = {_plain(family.title) for family in ALL_FAMILIES.values() if family.runs in classes}
    lines = [
        BEGIN,
        f"| pipeline | {' | '.join([*_TOGETHER, 'without xfuser', *_APART])} |",
        "| --- |" + " --- |" * (len(_TOGETHER) + 1 + len(_APART)),
    ]
    for pipeline, cells in together.items():
        own = apart.get(pipeline, {})
        said = [
            *(_said(cells.get(column, "")) for column in _TOGETHER.values()),
            "yes" if pipeline in alone else "no",
            *(_said(own.get(column, "")) for column in _APART.values()),
        ]
        lines.append(f"| {pipeline} | {' | '.join(said)} |")
    return "\n".join([*lines, END])


def with_overview(support: str, diffusers: str) -> str:
    """The page with its overview, above its matrices."""
    bare = re.sub(rf"{re.escape(BEGIN)}.*?{re.escape(END)}\n\n", "", support, flags=re.DOTALL)
    before, heading, after = bare.partition("## Matrices")
    return f"{before}{overview(support, diffusers)}\n\n{heading}{after}"


def _matrix(text: str) -> dict[str, dict[str, str]]:
    """The first table of a text: cells by pipeline and column; rows of one pipeline are one."""
    rows = re.findall(r"^\| (.+) \|$", text.partition("\n## ")[0], flags=re.MULTILINE)
    (_, *columns), _, *others = [row.split(" | ") for row in rows]
    found: dict[str, dict[str, str]] = {}
    for pipeline, *cells in others:
        entries = found.setdefault(_plain(pipeline), {})
        entries.update({column: cell for column, cell in zip(columns, cells, strict=False) if cell.strip()})
    return found


def _plain(title: str) -> str:
    return title.replace(" (`xdit`)", "")


def _said(cell: str) -> str:
    return "yes" if cell.strip() and not cell.startswith("refused") else "no"


if __name__ == "__main__":
    page = DOCS / "support.md"
    page.write_text(with_overview(page.read_text(), (DOCS / "diffusers.md").read_text()))
