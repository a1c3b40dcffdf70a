"""The section of ``docs/diffusers.md`` that the tests write."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.support.families import ALL_FAMILIES, FAMILIES
from tests.support.small import ONLY_DIFFUSERS, TASKS

__all__ = ["HEADING", "Found", "replaced"]

HEADING = "## What was compared"

_ORDER = tuple(dict.fromkeys([*FAMILIES, *ONLY_DIFFUSERS, *TASKS, *ALL_FAMILIES]))

_INTRODUCTION = """
{number} pipelines on three ranks differ from one process by at most {worst:.1e} (fp32).

<details>
<summary>The pipelines, and how they were compared</summary>

Written by the tests, never by hand (with `-k NAME` some of the rows; the others stay):

    bash scripts/test.sh tests/hosts/diffusers/test_families.py -m '' --support-diffusers docs/diffusers.md

A number is the largest difference of the latents to the unmodified pipeline in one process, fp32, relative to their
largest value; more than 1e-5 fails the test. Queries are scaled up, so that attention is far from uniform. Small models
of the true classes, gloo ranks on a CPU.
"""


@dataclass
class Found:
    """What the tests found.

    Attributes:
        families: Largest difference, by family.
    """

    families: dict[str, float] = field(default_factory=dict)


def replaced(text: str, found: Found) -> str:
    """A page with what was found beside what it says of other families, in the order of the small pipelines."""
    before, _, after = text.partition(HEADING)
    cells = {**dict(re.findall(r"^\| (\S+) \| (\d\S*) \|$", after, re.MULTILINE)), **_cells(found)}
    families = [
        "| pipeline | 3 ranks: lengths that they do not divide, two prompts, three calls of two sizes |",
        "| --- | --- |",
        *(f"| {name} | {cells[name]} |" for name in _ORDER if name in cells),
    ]
    introduction = _INTRODUCTION.format(number=len(cells), worst=max(float(cell) for cell in cells.values()))
    return before + "\n".join([HEADING, introduction, *families, "", "</details>"]) + "\n"


def _cells(found: Found) -> dict[str, str]:
    return {family: f"{error:.1e}" for family, error in found.families.items()}
