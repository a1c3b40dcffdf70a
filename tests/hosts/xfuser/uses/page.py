"""The parts of ``docs/support.md`` that say how uses went, one for each host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.hosts.xfuser.uses import FEW, GROUPS, USES, Kind, Outcome
from tests.support.families import ALL_FAMILIES
from tests.support.small import ONLY_DIFFUSERS, TASKS, small

__all__ = ["HEADINGS", "add_to_log", "kept", "read_log", "replaced", "section", "whole_families"]

HEADINGS = {"xfuser": "## Uses", "diffusers": "## Uses with diffusers as the host"}

_INTRODUCTIONS = {
    "xfuser": """\
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
process does not do this, or it has no effect there.""",
    "diffusers": """\
Written by the tests as well:

    bash scripts/test.sh tests/hosts/diffusers/test_uses.py -m matrix --support-uses docs/support.md

Read as the tables above, which were made by the same harness; here `parallelize(pipe, tokenring_degree=3,
host="diffusers")` on 3 gloo ranks. Families, and tasks, that were not run whole are left out.""",
}


def read_log(log: Path, host: str = "xfuser") -> dict[tuple[str, str], Outcome]:
    """What earlier runs found of a host, by use and family; nothing if there is no such file."""
    lines = log.read_text().splitlines() if log.exists() else []
    entries = [entry for entry in map(json.loads, lines) if entry.get("host", "xfuser") == host]
    return {(e["use"], e["family"]): Outcome(**{**e["outcome"], "kind": Kind[e["outcome"]["kind"]]}) for e in entries}


def add_to_log(log: Path, outcomes: Mapping[tuple[str, str], Outcome], host: str = "xfuser") -> None:
    """Keep what a run found."""
    with log.open("a") as file:
        for (use, family), outcome in outcomes.items():
            entry = {**asdict(outcome), "kind": outcome.kind.name}
            file.write(json.dumps({"use": use, "family": family, "host": host, "outcome": entry}) + "\n")


@contextmanager
def kept(
    config: pytest.Config, cases: Iterable[tuple[str, str]], host: str
) -> Iterator[dict[tuple[str, str], Outcome]]:
    """What the tests of a module find; put into ``--support-uses`` for the families that were run whole.

    Args:
        config: With the options of the command.
        cases: What there is to run.
        host: Which host was tried.
    """
    log = config.getoption("--uses-log")
    before = read_log(Path(log), host) if log is not None else {}
    found = dict(before)
    yield found
    if log is not None:
        add_to_log(Path(log), {pair: found[pair] for pair in found.keys() - before.keys()}, host)
    target = config.getoption("--support-uses")
    if target is not None:
        whole = whole_families(found, cases)
        if not whole:
            pytest.fail(f"{target} was not written: no family was run whole, without a failure")
        file = Path(target)
        file.write_text(replaced(file.read_text(), section(whole, host), host))


def whole_families(
    outcomes: Mapping[tuple[str, str], Outcome], cases: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Outcome]:
    """The outcomes of families of which none is missing."""
    missing = {family for use, family in cases if (use, family) not in outcomes}
    return {(use, family): outcome for (use, family), outcome in outcomes.items() if family not in missing}


def section(outcomes: Mapping[tuple[str, str], Outcome], host: str = "xfuser") -> str:
    """All uses in Markdown.

    Args:
        outcomes: By use and family.
        host: Which host was tried.
    """
    known = {family for _, family in outcomes}
    families = [name for name in (*ALL_FAMILIES, *ONLY_DIFFUSERS) if name in known]
    lines, messages = [HEADINGS[host], "", _INTRODUCTIONS[host]], list[str]()
    for group, uses in GROUPS.items() if families else ():
        titles = [small(name).title.replace(" (`xdit`)", "") for name in families]
        lines += ["", f"### {group}", "", f"| use | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
        for key, use in uses.items():
            cells = [_cell(outcomes.get((f"{group}/{key}", name)), messages) for name in families]
            lines.append(f"| {use.title} | {' | '.join(cells)} |")
    tasks = [name for name in TASKS if name in known]
    if tasks:
        lines += ["", "### Tasks", "", f"| use | {' | '.join(TASKS[name].title for name in tasks)} |"]
        lines.append("| --- |" + " --- |" * len(tasks))
        for key in FEW:
            cells = [_cell(outcomes.get((key, name)), messages) for name in tasks]
            lines.append(f"| {USES[key].title} | {' | '.join(cells)} |")
    lines += ["", "Refusals of uses:", ""] if messages else []
    lines += [f"{number}. {message}" for number, message in enumerate(messages, start=1)]
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome | None, messages: list[str]) -> str:
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


def replaced(text: str, made: str, host: str = "xfuser") -> str:
    """A page with a host's section on uses replaced, or put at its end.

    Args:
        text: The page.
        made: The section.
        host: Which host was tried.
    """
    before, _, after = text.partition(f"\n{HEADINGS[host]}\n")
    _, found, others = after.partition("\n## ")
    return f"{before.rstrip()}\n\n{made}" + (f"\n## {others}" if found else "")
