"""What the documentation quotes is what the package says, and what it tells to type is what the package reads."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.hosts.xfuser.uses.page import again
from tests.support.families import ALL_FAMILIES
from tests.support.overview import with_overview
from tokenring_xdit import __version__
from tokenring_xdit.bench.sweep import SweepConfig
from tokenring_xdit.cli.commands import read_command
from tokenring_xdit.cli.launch import KINDS
from tokenring_xdit.config import read_config
from tokenring_xdit.hosts.diffusers import offer
from tokenring_xdit.hosts.xfuser import supported
from tokenring_xdit.pipelines.tasks import read_run
from tokenring_xdit.schedule import ALGORITHMS
from tokenring_xdit.topology import load_network

ROOT = Path(__file__).parents[1]

CONFIGS = ROOT / "configs"

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PICTURES = ROOT / "docs" / "images" / "schedules"

FOREIGN = {"unrecognized arguments: --tokenring_degree", "rank … failed: OutOfMemoryError: …"}
"""Messages of argparse and torch."""

QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), flags=re.MULTILINE)


@cache
def messages() -> list[str]:
    """All texts in the package's code, with … for what is filled in."""
    found = []
    for path in (ROOT / "tokenring_xdit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


@pytest.mark.parametrize("heading", [heading for heading in QUOTED if heading not in FOREIGN])
def test_troubleshooting_quotes_real_messages(heading: str) -> None:
    said = heading.strip("… ")
    assert any(said in message for message in messages())


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = page.read_text()
        for target in re.findall(r"(?:\]\(|src=\")(?!https?://|#)([^)#\"]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", text):
            other = page.parent / target if target else page
            assert anchor in anchors(other.read_text()), f"{page.name} links to {target}#{anchor}"


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("picture", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.stem)
def test_pictures_show_the_schedules_as_they_are(picture: Path) -> None:
    redrawn = runpy.run_path(str(ROOT / "scripts" / "draw_schedules.py"))["redrawn"]
    assert picture.read_text() == redrawn(picture), "python scripts/draw_schedules.py draws it again"


def test_every_schedule_has_a_picture_on_its_page_and_no_picture_is_left_over() -> None:
    shown = re.findall(r"\]\(images/schedules/([^)]+)\)", (ROOT / "docs" / "schedules.md").read_text())
    shown += re.findall(r"docs/images/schedules/([^)\"]+)[)\"]", (ROOT / "README.md").read_text())
    assert sorted(shown) == sorted(path.name for path in PICTURES.iterdir())
    assert {ET.parse(PICTURES / name).getroot().attrib["data-schedule"].partition(":")[0] for name in shown} == set(
        ALGORITHMS
    )


def test_every_schedule_has_a_row_and_a_section() -> None:
    page = (ROOT / "docs" / "schedules.md").read_text()
    rows = re.findall(r"^\| `(\w+)`", page.partition("## What travels")[2].partition("\n\n**")[0], flags=re.MULTILINE)
    headings = re.findall(r"^### (.+)$", page, flags=re.MULTILINE)
    assert sorted(rows) == sorted(ALGORITHMS) == sorted(re.findall(r"`(\w+)`", " ".join(headings)))


def test_the_overview_of_support_says_what_its_matrices_say() -> None:
    page, diffusers = ((ROOT / "docs" / name).read_text() for name in ("support.md", "diffusers.md"))
    assert page == with_overview(page, diffusers), "python -m tests.support.overview writes it again"


def test_the_uses_of_support_are_laid_out_as_they_are_written() -> None:
    """And nothing is changed by hand: what is read off the page gives the page."""
    page = (ROOT / "docs" / "support.md").read_text()
    assert page == again(again(page), "diffusers"), "python -m tests.hosts.xfuser.uses.page writes it again"


def test_the_overview_of_support_says_what_the_records_of_hosts_say() -> None:
    """Read off the page and the package, and not off the figures that the overview is made of."""
    text = (ROOT / "docs" / "support.md").read_text().partition("<!-- overview -->\n")[2].partition("<!-- end")[0]
    heads, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    classes = {family.title.removesuffix(" (`xdit`)"): family.runs for family in ALL_FAMILIES.values()}
    assert sorted(row[0] for row in rows) == sorted(classes)
    for name, *cells in rows:
        said = {head for head, cell in zip(heads[1:], cells, strict=True) if cell == "yes"}
        own = supported.own_pipeline(classes[name])
        known = {
            "TokenRing": classes[name] in supported.compared(),
            "without xfuser": classes[name] in offer.compared(),
            "data parallel (xfuser's own pipelines)": own is not None,
            "PipeFusion": own is not None and own.stages,
        }
        assert said & set(known) == {head for head, yes in known.items() if yes}, name


def test_it_is_cited_by_the_version_that_it_is() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_the_plot_of_the_first_page_shows_what_was_measured() -> None:
    measured = runpy.run_path(str(ROOT / "scripts" / "draw_speedups.py"))["measured"]()
    drawn = (ROOT / "docs" / "images" / "speedups.svg").read_text()
    assert len(measured) == 18
    for row in measured:
        assert f": {row['times']}; network: {row['network']}; strategy: {row['strategy']}" in drawn


class Block(NamedTuple):
    """A block of code of a page."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            yield Block(page.name, text.count("\n", 0, found.start()) + 2, found[1], found[2])


BLOCKS = list(blocks())


def block(language: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("found", [each for each in BLOCKS if each.language == language], ids=str)


def typed(found: Block) -> list[list[str]]:
    """The command lines of a block, as words; variables that stand in front of them are left out."""
    lines = [shlex.split(line, comments=True) for line in found.code.replace("\\\n", " ").splitlines()]
    return [[word for at, word in enumerate(line) if at or "=" not in word] for line in lines if line]


def test_every_block_of_code_is_of_a_language_that_is_checked() -> None:
    assert {each.language for each in BLOCKS} <= {"bash", "mermaid", "python", "yaml"}


@block("bash")
def test_commands_are_read_as_they_stand(found: Block) -> None:
    """By the real parser; nothing is run."""
    for words in typed(found):
        if words[0] == "tokenring-xdit":
            read(words[1:])
        elif "tokenring_xdit.cli" in words:
            read(words[words.index("tokenring_xdit.cli") + 1 :])
        elif words[0] in {"bash", "python", "sbatch"}:
            assert [word for word in words if word.startswith("scripts/")]
            assert all((ROOT / word).is_file() for word in words if word.startswith(("scripts/", "configs/")))
        else:
            assert words[0] in {"xdit", "pip", "torchrun", "curl", "export", "cd", "ray"}, f"who reads {words}?"


def read(words: list[str]) -> None:
    """Parse a command line, and what it says of a run or a sweep, with the file that it names where that ships."""
    words = words[: words.index("<")] if "<" in words else words
    if words[0] == "launch":
        assert words[1] in KINDS
        return
    try:
        args = read_command(words)
    except SystemExit:
        pytest.fail(f"tokenring-xdit does not take {shlex.join(words)}")
    if words[0] == "run":
        path, overrides = importlib.import_module("tokenring_xdit.cli.run")._said(args)
        read_run(path if path is None or path.exists() else CONFIGS / path.name, overrides)
    elif args.action == "bench_run:run_command":
        read_config(SweepConfig, args.config, args.overrides)


@block("python")
def test_python_calls_what_there_is(found: Block) -> None:
    """It is compiled; names of this package that it imports exist, and their calls fit."""
    tree = ast.parse(found.code)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name: importlib.import_module(each.name) for each in node.names if "tokenring" in each.name}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("tokenring_xdit"):
            module = importlib.import_module(node.module)
            names |= {each.name: getattr(module, each.name) for each in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, *others = ast.unparse(node.func).split(".")
            if first in names and not any(isinstance(each, ast.Starred) for each in node.args):
                called = names[first]
                for part in others:
                    called = getattr(called, part)
                said = {each.arg: each for each in node.keywords if each.arg is not None}
                inspect.signature(called).bind(*node.args, **said)


@block("yaml")
def test_yaml_is_what_it_describes(found: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, path = yaml.safe_load(found.code), tmp_path / "block.yaml"
    path.write_text(found.code)
    for file in re.findall(r"(?<!/)\b\w+\.(?:txt|mp4)", found.code):
        (tmp_path / file).write_text("A line of text.")
    monkeypatch.chdir(tmp_path)
    if "strategies" in content:
        read_config(SweepConfig, path)
    elif "links" in content:
        load_network(str(path))
    else:
        read_run(path)


XDIT = """
import json, sys
from tokenring_xdit.hosts.xfuser import register
register()
from xfuser import xFuserArgs
from xfuser.config.args import FlexibleArgumentParser
for words in json.load(sys.stdin):
    parser = xFuserArgs.add_runner_args(FlexibleArgumentParser())
    xFuserArgs.from_runner_args(vars(parser.parse_args(words)))
"""


@pytest.mark.e2e
def test_commands_of_xfuser_are_read_as_they_stand() -> None:
    lines = [words[1:] for each in BLOCKS if each.language == "bash" for words in typed(each) if words[0] == "xdit"]
    assert len(lines) > 1
    command = [sys.executable, "-c", XDIT]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
