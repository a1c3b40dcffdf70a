"""The part of ``docs/support.md`` that says how uses went."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from tests.hosts.xfuser.uses import GROUPS, Kind, Outcome
from tests.support.families import FAMILIES

__all__ = ["HEADING", "add_to_log", "read_log", "replaced", "section", "whole_families"]

HEADING = "## Uses"

_INTRODUCTION = """\
Written by the tests, too, after the tables above:

    bash scripts/test.sh tests/hosts/xfuser/test_uses.py -m '' --support-uses docs/support.md

It takes an hour, and may be divided: `--uses-log FILE` keeps what was found. Families that were not run whole are left
out.

What people do with a pipeline round `parallelize(pipe, tokenring_degree=2)`, a use in each row: 2 gloo ranks, fp32,
against the same use in one process of unmodified diffusers. A number is the largest difference relative to the scale;
more than 1e-5 fails the test, except where another kernel of attention, or the last bit of the weights, changes as
much in one process (in brackets; three times that fails). `[1]` is a refusal, in the sentence of that number below:
raised on every rank, before the transformer ran (in callbacks: before the next step). The ranks' global seeds differ.
`alike`: the picture is the same on all ranks, but not that of one process, which has no generator either. `-`: one
process does not do this, or it has no effect there."""


def read_log(log: Path) -> dict[tuple[str, str], Outcome]:
    """What earlier runs found, by use and family; nothing if there is no such file."""
    lines = log.read_text().splitlines() if log.exists() else []
    entries = (json.loads(line) for line in lines)
    return {(e["use"], e["family"]): Outcome(**{**e["outcome"], "kind": Kind[e["outcome"]["kind"]]}) for e in entries}


def add_to_log(log: Path, outcomes: Mapping[tuple[str, str], Outcome]) -> None:
    """Keep what a run found."""
    with log.open("a") as file:
        for (use, family), outcome in outcomes.items():
            kept = {**asdict(outcome), "kind": outcome.kind.name}
            file.write(json.dumps({"use": use, "family": family, "outcome": kept}) + "\n")


def whole_families(
    outcomes: Mapping[tuple[str, str], Outcome], cases: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Outcome]:
    """The outcomes of families of which none is missing."""
    missing = {family for use, family in cases if (use, family) not in outcomes}
    return {(use, family): outcome for (use, family), outcome in outcomes.items() if family not in missing}


def section(outcomes: Mapping[tuple[str, str], Outcome]) -> str:
    """All uses in Markdown.

    Args:
        outcomes: By use and family.
    """
    families = [name for name in FAMILIES if any(name == family for _, family in outcomes)]
    lines, messages = [HEADING, "", _INTRODUCTION], list[str]()
    for group, uses in GROUPS.items():
        titles = [FAMILIES[name].title.replace(" (`xdit`)", "") for name in families]
        lines += ["", f"### {group}", "", f"| use | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
        for key, use in uses.items():
            cells = [_cell(outcomes.get((f"{group}/{key}", name)), FAMILIES[name].title, messages) for name in families]
            lines.append(f"| {use.title} | {' | '.join(cells)} |")
    lines += ["", "Refusals of uses:", ""] if messages else []
    lines += [f"{number}. {message}" for number, message in enumerate(messages, start=1)]
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome | None, title: str, messages: list[str]) -> str:
    if outcome is None:
        return ""
    if outcome.kind is Kind.ABSENT:
        return "-"
    if outcome.kind is Kind.RIGHT:
        single = "" if outcome.single is None else f" ({outcome.single:.1e})"
        return outcome.text or f"{outcome.error:.1e}{single}"
    message = _general(outcome.text)
    if message not in messages:
        messages.append(message)
    return f"[{messages.index(message) + 1}]"


def _general(message: str) -> str:
    """A refusal without what differs from one pipeline to the next."""
    message = re.sub(r"\b\w+(Pipeline|Transformer\w*Model|DiT2DModel)\b", lambda found: f"(a {found[1]})", message)
    message = re.sub(r"\(a (Transformer\w*Model|DiT2DModel)\)", "(the model)", message).replace(
        "(a Pipeline)", "(the pipeline)"
    )
    message = re.sub(r"a tensor \([\d, ]*\)", "a tensor (...)", message)
    return re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b", "...", message)


def replaced(text: str, made: str) -> str:
    """A page with its section on uses replaced, or put at its end.

    Args:
        text: The page.
        made: The section.
    """
    before = text.split(f"\n{HEADING}\n", maxsplit=1)[0].rstrip("\n")
    return f"{before}\n\n{made}"
