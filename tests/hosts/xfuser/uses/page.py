"""The parts of ``docs/support.md`` that say how uses went, one for each host."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.hosts.xfuser.uses import FEW, GROUPS, USES, Kind, Outcome
from tests.support.families import ALL_FAMILIES
from tests.support.overview import DOCS
from tests.support.refusals import general
from tests.support.small import ONLY_DIFFUSERS, TASKS, small

__all__ = ["HEADINGS", "add_to_log", "again", "kept", "read_log", "replaced", "section", "stated", "whole_families"]

HEADINGS = {"xfuser": "## Uses", "diffusers": "## Uses with diffusers as the host"}

_INTRODUCTIONS = {
    "xfuser": """\
What people do with a pipeline round `parallelize(pipe, tokenring_degree=2)`: each use on 2 gloo ranks in fp32, compared
with the same use of unmodified diffusers in one process.

<details><summary>How to read and to write these tables</summary>

* A number is the largest difference, relative to the output's scale. More than 1e-5 fails the test, except where
  another attention kernel, or the last bit of the weights, changes as much in one process: that change is in brackets,
  and three times it fails.
* `[1]` is a refusal, in the sentence of that number at the end: every rank raises it before the transformer runs (in
  callbacks: before the next step). `…` stands for names and numbers of the case.
* `alike`: the picture is the same on all ranks, but not that of one process, which has no generator either. `-`: one
  process does not do this, or it has no effect there. Ranks have different global seeds.
* The tests write this section, in about an hour; with `-k NAME` some of the cells, and the others stay. `--uses-log
  FILE` keeps what was found, so that the work can be divided. Families of which a cell is missing are left out.
  `python -m tests.hosts.xfuser.uses.page` lays out what the page holds anew.

`bash scripts/test.sh tests/hosts/xfuser/test_uses.py -m '' --support-uses docs/support.md`

</details>""",
    "diffusers": """\
The same uses with `parallelize(pipe, tokenring_degree=3, host="diffusers")` on 3 gloo ranks.

The tests write this section:

`bash scripts/test.sh tests/hosts/diffusers/test_uses.py -m matrix --support-uses docs/support.md`""",
}

_REFUSALS = "<details><summary>The refusals</summary>"


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
    request: pytest.FixtureRequest, cases: Iterable[tuple[str, str]], host: str
) -> Iterator[dict[tuple[str, str], Outcome]]:
    """What the tests of a module find; put into ``--support-uses``, where what was left out stays.

    Args:
        request: Of a fixture of the module, which its tests take.
        cases: What there is to run.
        host: Which host was tried.
    """
    log = request.config.getoption("--uses-log")
    before = read_log(Path(log), host) if log is not None else {}
    found = dict(before)
    yield found
    if log is not None:
        add_to_log(Path(log), {pair: found[pair] for pair in found.keys() - before.keys()}, host)
    target = request.config.getoption("--support-uses")
    if target is None:
        return
    missing = sorted(_chosen(request) - found.keys())
    if missing:
        failed = ", ".join(f"{use} of {family}" for use, family in missing)
        pytest.fail(f"{target} was not written: these failed, or were not run: {failed}")
    file = Path(target)
    text = file.read_text()
    whole = whole_families({**stated(text, host), **found}, cases)
    if not whole:
        pytest.fail(f"{target} was not written: of no family there is every cell")
    file.write_text(replaced(text, section(whole, host), host))


def _chosen(request: pytest.FixtureRequest) -> set[tuple[str, str]]:
    """Uses and families of the tests that are to be run, of those that take a fixture."""
    tests = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.getparent(pytest.Module) is request.node
        and request.fixturename in item.fixturenames
    ]
    return {(each["use"], each["family"]) for each in tests}


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
    tasks = [name for name in TASKS if name in known] if host == "diffusers" else []
    families = [name for name in (*ALL_FAMILIES, *ONLY_DIFFUSERS) if name in known and name not in tasks]
    lines, messages = [HEADINGS[host], "", _INTRODUCTIONS[host]], list[str]()
    for group, uses in GROUPS.items() if families else ():
        titles = [title_of(name) for name in families]
        rows = {use.title: [outcomes.get((f"{group}/{key}", name)) for name in families] for key, use in uses.items()}
        lines += _group(group, titles, rows, messages)
    if tasks:
        rows = {USES[key].title: [outcomes.get((key, name)) for name in tasks] for key in FEW}
        lines += _group("Tasks", [TASKS[name].title for name in tasks], rows, messages)
    if messages:
        lines += ["", _REFUSALS, "", *(f"{number}. {each}" for number, each in enumerate(messages, start=1))]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def title_of(family: str) -> str:
    """What a column of a family is called."""
    return small(family).title.replace(" (`xdit`)", "")


def _group(
    name: str, titles: list[str], rows: Mapping[str, list[Outcome | None]], messages: list[str]
) -> Iterator[str]:
    """Uses of one kind: what follows from them, and their figures."""
    kinds = Counter(outcome.kind for row in rows.values() for outcome in row if outcome is not None)
    right, refused = kinds[Kind.RIGHT], kinds[Kind.REFUSED]
    yield from [
        "",
        f"### {name}",
        "",
        f"{len(rows)} uses, {len(titles)} pipelines: {right} times as in one process, "
        f"{refused} times refused before any work.",
        "",
        "<details><summary>Figures</summary>",
        "",
    ]
    yield from [f"| use | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
    for title, row in rows.items():
        if any(row):
            yield f"| {title} | {' | '.join(_cell(outcome, messages) for outcome in row)} |"
    yield from ["", "</details>"]


def _cell(outcome: Outcome | None, messages: list[str]) -> str:
    if outcome is None:
        return ""
    if outcome.kind is Kind.ABSENT:
        return "-"
    if outcome.kind is Kind.RIGHT:
        single = "" if outcome.single is None else f" ({outcome.single:.1e})"
        return outcome.text or f"{outcome.error:.1e}{single}"
    message = general(outcome.text)
    if message not in messages:
        messages.append(message)
    return f"[{messages.index(message) + 1}]"


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


def again(text: str, host: str = "xfuser") -> str:
    """A page with a host's section written anew from what it says itself, without a run.

    Args:
        text: The page.
        host: Which host was tried.
    """
    outcomes = stated(text, host)
    return replaced(text, section(outcomes, host), host) if outcomes else text


def stated(text: str, host: str = "xfuser") -> dict[tuple[str, str], Outcome]:
    """What a page says of a host, by use and family; not of uses and families that are gone.

    Args:
        text: The page.
        host: Which host was tried.
    """
    _, _, after = text.partition(f"\n{HEADINGS[host]}\n")
    made, _, _ = after.partition("\n## ")
    messages = dict(re.findall(r"^(\d+)\. (.+)$", made, flags=re.MULTILINE))
    outcomes: dict[tuple[str, str], Outcome] = {}
    for part in re.split(r"^### ", made, flags=re.MULTILINE)[1:]:
        group = part.partition("\n")[0]
        known = {use.title: f"{group}/{key}" for key, use in GROUPS.get(group, {}).items()}
        keys = known or {USES[key].title: key for key in FEW}
        families = [*ALL_FAMILIES, *ONLY_DIFFUSERS] if known else [*TASKS]
        names = {title_of(name): name for name in reversed(families)}
        (_, *titles), _, *rows = (row.split(" | ") for row in re.findall(r"^\| (.+) \|$", part, flags=re.MULTILINE))
        for use, *cells in rows:
            for title, cell in zip(titles, cells, strict=True):
                if cell.strip() and use in keys and title in names:
                    outcomes[keys[use], names[title]] = _outcome(cell, messages)
    return outcomes


def _outcome(cell: str, messages: Mapping[str, str]) -> Outcome:
    """What a cell says."""
    if cell == "-":
        return Outcome(Kind.ABSENT)
    if found := re.fullmatch(r"\[(\d+)\]", cell):
        return Outcome(Kind.REFUSED, text=messages[found[1]])
    if found := re.fullmatch(r"(\d\.\d+e\S+)(?: \((.+)\))?", cell):
        return Outcome(Kind.RIGHT, float(found[1]), single=float(found[2]) if found[2] else None)
    return Outcome(Kind.RIGHT, text=cell)


if __name__ == "__main__":
    page = DOCS / "support.md"
    page.write_text(again(again(page.read_text()), "diffusers"))
