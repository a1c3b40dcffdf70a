"""The section of ``docs/diffusers.md`` that the tests write."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["HEADING", "Found", "replaced"]

HEADING = "## What was compared"

_INTRODUCTION = """
{number} pipelines on three ranks differ from one process by at most {worst:.1e} (fp32).

<details>
<summary>The pipelines, and how they were compared</summary>

Written by the tests, never by hand:

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
    """A page with what was found in the place of what it says."""
    before, _, _ = text.partition(HEADING)
    families = [
        "| pipeline | 3 ranks: lengths that they do not divide, two prompts, three calls of two sizes |",
        "| --- | --- |",
        *(f"| {family} | {error:.1e} |" for family, error in found.families.items()),
    ]
    introduction = _INTRODUCTION.format(number=len(found.families), worst=max(found.families.values()))
    return before + "\n".join([HEADING, introduction, *families, "", "</details>"]) + "\n"
