"""What is generated for each family, and the page that says how it went."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from tests.hosts.xfuser.generation import Case
from tests.support.families import ALL_FAMILIES, FAMILIES, Entry, Family
from tests.support.refusals import general
from tokenring_xdit.hosts.xfuser.families import FAMILIES as RECORDS
from tokenring_xdit.hosts.xfuser.refused import RUNNERS_REFUSED

__all__ = ["COLUMNS", "TOGETHER", "Column", "Outcome", "cases", "is_quick", "is_refused", "kept", "page"]

PROMPTS = ["a red fox in the snow", "a boat"]


@dataclass(frozen=True)
class Outcome:
    """How one generation went.

    Attributes:
        error: Difference to one process, relative to the output's scale; ``None`` where it was refused.
        refusal: The message of the refusal.
        single: The same of one process in this dtype, where it is not fp32.
    """

    error: float | None
    refusal: str = ""
    single: float | None = None


@dataclass(frozen=True)
class Column:
    """One combination.

    Attributes:
        title: Head of the column.
        degrees: ParallelDims, as in :class:`Case`.
        inputs: Options of the call, for a family and the ranks that share a sequence.
        quick: Whether the default run of the tests takes it along for every family.
        families: Families it makes sense for; ``None`` is all.
    """

    title: str
    degrees: dict[str, Any]
    inputs: Callable[[Family, int], dict[str, Any]]
    quick: bool = False
    families: frozenset[str] | None = None


def fitting(family: Family, ranks: int) -> dict[str, Any]:
    """A size whose rows divide by the ranks where they have to, at least eight rows and an even number."""
    rows = ranks * 2 * -(-4 // ranks) if family.by_rows else 8
    return {"height": rows * family.pixels, "width": 6 * family.pixels}


def odd(family: Family, ranks: int) -> dict[str, Any]:
    """Seven times eleven tokens in a picture or frame, and an odd number of text tokens where it can be chosen.

    Families cut by rows get rows that divide, and an even number of columns, which PixArt asks for.
    """
    rows, columns = (ranks * 3, 10) if family.by_rows else (7, 11)
    size = {"height": rows * family.pixels, "width": columns * family.pixels}
    return {**size, "text_tokens": 49} if family.text_tokens else size


def any_size(family: Family, ranks: int) -> dict[str, Any]:
    """Tokens that the ranks do not divide, an odd number of text tokens and two prompts where these can be chosen.

    PixArt asks for an even number of rows and columns.
    """
    rows, columns = (10, 10) if family.name.startswith("pixart") else (7, 10)
    text = {"text_tokens": 49} if family.text_tokens else {}
    prompts = {} if family.one_prompt else {"prompts": PROMPTS}
    return {"height": rows * family.pixels, "width": columns * family.pixels, **prompts, **text}


def odd_rows(family: Family, ranks: int) -> dict[str, Any]:
    """Eight rows, which do not divide."""
    assert 8 % ranks
    return {"height": 8 * family.pixels, "width": 6 * family.pixels}


def several(family: Family, ranks: int) -> dict[str, Any]:
    """Two prompts of different length."""
    return {**fitting(family, ranks), "prompts": PROMPTS}


def two_images(family: Family, ranks: int) -> dict[str, Any]:
    """Two pictures of one prompt, wider than high."""
    rows = ranks * 2 * -(-4 // ranks) if family.by_rows else 8
    return {"height": rows * family.pixels, "width": 12 * family.pixels, "images_per_prompt": 2}


def four_steps(family: Family, ranks: int) -> dict[str, Any]:
    """Enough for PipeFusion to work on several patches at once after the first step."""
    return {**fitting(family, ranks), "steps": 4}


_GUIDED = frozenset(
    {
        "ideogram4",
        "cosmos3",
        "lumina2",
        "sd3",
        "sd3.5-medium",
        "pixart-alpha",
        "pixart-sigma",
        "hunyuan-dit",
        "cogvideox",
        "latte",
    }
)
_STAGES = frozenset(key for key, family in ALL_FAMILIES.items() if family.own is not None and family.own.stages)
_IN_ORDER = frozenset(key for key in _STAGES if (own := ALL_FAMILIES[key].own) is not None and not own.patches)
_WRAPPED = frozenset(key for key, family in ALL_FAMILIES.items() if family.entry is Entry.PIPELINE)
_VIDEO = frozenset(
    key for key in ALL_FAMILIES if key.startswith(("cogvideox", "cosmos", "latte", "wan", "hunyuan-video", "ltx"))
)
_STILL = frozenset(ALL_FAMILIES) - _VIDEO
_SEVERAL = frozenset(key for key, family in ALL_FAMILIES.items() if not family.one_prompt)
_BY_ROWS = frozenset(key for key, family in ALL_FAMILIES.items() if family.by_rows)

_TWINS = frozenset({"flux-control", "flux2-klein", "pixart-sigma", "wan-a14b", "wan-ti2v"})
"""Families whose transformer xfuser wraps as it does that of another one in the default run."""

_SPREAD = frozenset(ALL_FAMILIES) - {"flux-runner"}  # which is flux, with the same transformer

TOGETHER: dict[str, Column] = {
    "t2": Column("TokenRing 2", {"tokenring": 2}, fitting, families=_SPREAD),
    "t3-any": Column("TokenRing 3, any size", {"tokenring": 3}, any_size, quick=True, families=_SPREAD),
    "t8": Column("TokenRing 8", {"tokenring": 8}, fitting, families=_SPREAD),
    "u2-any": Column("Ulysses 2, any size", {"ulysses": 2}, any_size, families=_SPREAD),
    "u2t2-any": Column("Ulysses 2 x TokenRing 2, any size", {"tokenring": 2, "ulysses": 2}, any_size, families=_SPREAD),
    "t2-images": Column("TokenRing 2, two images of a prompt", {"tokenring": 2}, two_images, families=_STILL & _SPREAD),
    "t2-bf16": Column("TokenRing 2, bf16", {"tokenring": 2, "dtype": torch.bfloat16}, fitting, families=_SPREAD),
}
"""Combinations for ``parallelize``, and so for ``run`` and the engine."""

COLUMNS: dict[str, Column] = {
    "tr2": Column("TokenRing 2", {"tokenring": 2}, fitting),
    "tr3": Column("TokenRing 3", {"tokenring": 3}, fitting),
    "tr4-odd": Column("TokenRing 4, odd sizes", {"tokenring": 4}, odd, quick=True),
    "tr8": Column("TokenRing 8", {"tokenring": 8}, fitting),
    "u2tr2": Column("Ulysses 2 x TokenRing 2, odd sizes", {"tokenring": 2, "ulysses": 2}, odd),
    "prompts": Column("TokenRing 2, two prompts", {"tokenring": 2}, several, families=_SEVERAL),
    "images": Column("TokenRing 2, two images of a prompt", {"tokenring": 2}, two_images, families=_STILL),
    "bf16": Column("TokenRing 2, bf16", {"tokenring": 2, "dtype": torch.bfloat16}, fitting),
    "cfg": Column("CFG 2 x TokenRing 2", {"tokenring": 2, "cfg": True}, fitting, families=_GUIDED),
    "data": Column("Data parallel 2 x TokenRing 2", {"tokenring": 2, "data": 2}, several, families=_WRAPPED),
    "stages": Column(
        "PipeFusion 2 x TokenRing 2, in order",
        {"tokenring": 2, "pipefusion": 2, "warmup": 4},
        four_steps,
        families=_STAGES,
    ),
    "patches": Column(
        "PipeFusion 2 x TokenRing 2, patches at once",
        {"tokenring": 2, "pipefusion": 2, "warmup": 1},
        four_steps,
        families=_STAGES,
    ),
    "rows": Column("TokenRing 3, rows that do not divide", {"tokenring": 3}, odd_rows, families=_BY_ROWS),
}
"""Combinations for xfuser's own pipelines, and for its transformers as `xdit` uses them."""


def cases() -> Iterator[tuple[str, str, Case]]:
    """Family, column and case of each generation."""
    for name, family in ALL_FAMILIES.items():
        for columns, together in ((TOGETHER, True), (COLUMNS, False)):
            for key, column in columns.items():
                if column.families is None or name in column.families:
                    degrees = Case(name, together=together, **column.degrees)
                    sharing = degrees.tokenring * degrees.ulysses * degrees.pipefusion
                    yield name, key, replace(degrees, inputs=column.inputs(family, sharing))


def is_quick(family: str, column: str) -> bool:
    """Whether the default run of the tests takes a generation along."""
    if family not in FAMILIES:
        return (family, column) in {("qwen-edit-2511", "t3-any")}
    if family in _TWINS and column in COLUMNS:
        return False
    return {**TOGETHER, **COLUMNS}[column].quick or (family, column) == ("flux", "patches")


def is_refused(family: str, column: str) -> bool:
    """Whether a generation is meant to be refused."""
    return column == "rows" or (family in _IN_ORDER and column == "patches")


def page(outcomes: dict[tuple[str, str], Outcome]) -> str:
    """The support matrix in Markdown."""
    messages: list[str] = []
    run = sum(len(family.runners) for family in RECORDS.values())
    lines = [
        "# Support matrix",
        "",
        "* *Yes*: the combination equals the unmodified single process, tested with small models of the real",
        "  architecture on gloo ranks and CPUs ([gpu.md](gpu.md) has what ran on a GPU).",
        "* *No*: we did not compare it. It may still run: replicas (`data_parallel_degree` of configs and `Engine`)",
        "  run with any of these pipelines. Pipelines that are not listed for any host are refused before any work.",
        "* The host is xfuser, except in the column *without xfuser*. [diffusers.md](diffusers.md) has more pipelines:",
        "  image to image, inpainting, ControlNets, Chroma, Mochi and others.",
        f"* Of the {run + len(RUNNERS_REFUSED)} model classes of `xdit` {run} run under TokenRing; "
        f"[upstream.md](upstream.md) says why {len(RUNNERS_REFUSED)} do not.",
        "",
        "## Matrices",
        "",
        "A number is the largest difference of the latents to the unmodified diffusers pipeline in one process, fp32,",
        "relative to their largest value; more than 1e-5 fails the test. In bf16 it is the difference to fp32, with",
        "that of one process in bf16 in brackets; twice that fails. An empty cell was not run, or does not exist.",
        "Causal Wan, which makes a video chunk by chunk, is compared with upstream in one process instead",
        "(`tests/hosts/xfuser/test_streaming.py`), and MiniMax-H3, whose pipeline is modular, by its transformer",
        "(`tests/hosts/xfuser/test_minimax_h3.py`). The tests write the tables (with `-k NAME` some of the cells; the",
        "others stay), and `python -m tests.support.overview` the overview from them:",
        "",
        "`bash scripts/test.sh tests/hosts/xfuser/test_matrix.py -m '' --support docs/support.md`",
        "",
        "## `parallelize`, `tokenring-xdit run`, `Engine`",
        "",
        "*Any size*: tokens that the ranks do not divide, 49 text tokens where that can be chosen, two prompts.",
        "",
        *_folded("Figures", _table(TOGETHER, outcomes, messages)),
        "",
        "## xfuser's own pipelines, and its transformers as `xdit` uses them",
        "",
        "PipeFusion on several patches at once attends the previous step's keys, so it is compared with xfuser's",
        "PipeFusion alone.",
        "",
        *_folded("Figures", _table(COLUMNS, outcomes, messages)),
    ]
    numbered = [f"{number}. {message}" for number, message in enumerate(messages, start=1)]
    lines += ["", *_folded("The refusals", numbered)] if messages else []
    return "\n".join(lines) + "\n"


def _folded(summary: str, lines: list[str]) -> list[str]:
    return [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"]


def kept(text: str) -> dict[tuple[str, str], Outcome]:
    """The outcomes that a page holds, as :func:`page` wrote it."""
    messages = dict(re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE))
    names = {family.title: name for name, family in ALL_FAMILIES.items()}
    found: dict[tuple[str, str], Outcome] = {}
    for heading, columns in (("## `parallelize`", TOGETHER), ("## xfuser's own pipelines", COLUMNS)):
        keys = {column.title: key for key, column in columns.items()}
        rows = re.findall(r"^\| (.+) \|$", text.partition(heading)[2].partition("\n## ")[0], re.MULTILINE)
        (_, *titles), *others = [[cell.strip() for cell in row.split(" | ")] for row in rows]
        for title, *cells in others:
            if title not in names:
                continue  # the line below the titles, or a family that is gone
            for column, cell in zip(titles, cells, strict=True):
                refusal = re.fullmatch(r"refused \[(\d+)\]", cell)
                error = re.fullmatch(r"(\S+)(?: \((\S+)\))?", cell)
                if refusal is not None:
                    found[names[title], keys[column]] = Outcome(None, messages[refusal[1]])
                elif error is not None:
                    single = None if error[2] is None else float(error[2])
                    found[names[title], keys[column]] = Outcome(float(error[1]), single=single)
    return found


def _table(columns: dict[str, Column], outcomes: dict[tuple[str, str], Outcome], messages: list[str]) -> list[str]:
    """A table of families by columns; refusals are added to the messages."""
    lines = [
        "| pipeline | " + " | ".join(column.title for column in columns.values()) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name, family in ALL_FAMILIES.items():
        cells = []
        for key in columns:
            outcome = outcomes.get((name, key))
            if outcome is None:
                cells.append("")
            elif outcome.error is not None:
                one = "" if outcome.single is None else f" ({outcome.single:.1e})"
                cells.append(f"{outcome.error:.1e}{one}")
            else:
                refusal = general(outcome.refusal)
                if refusal not in messages:
                    messages.append(refusal)
                cells.append(f"refused [{messages.index(refusal) + 1}]")
        if any(cells):
            lines.append(f"| {family.title} | " + " | ".join(cells) + " |")
    return lines
