"""``--help`` answers at once: nothing large is imported before a command line has been read."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tokenring_xdit.cli.commands import read_command, whole_parser

HEAVY = ("diffusers", "numpy", "PIL", "pydantic", "torch", "transformers", "xfuser")

PROBE = """
import json, sys
{statement}
print(json.dumps([name for name in {heavy} if name in sys.modules]), file=sys.stderr)
"""

COMMAND = """
from tokenring_xdit.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert not end.code, end.code
"""


def parsers(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """All parsers, with the words that lead to them."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from parsers(inner, (*words, word))


PARSERS = dict(parsers(whole_parser()))


def imported_by(statement: str) -> list[str]:
    """What a fresh process has imported after a statement, of what is large."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement, heavy=HEAVY)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(done.stderr)
    return found


def test_the_package_imports_nothing_large() -> None:
    assert imported_by("import tokenring_xdit") == []


def test_help_and_version_import_nothing_large() -> None:
    asked = [[*words, "--help"] for words, parser in PARSERS.items() if parser.add_help]
    assert ["bench", "run", "--help"] in asked
    runs = "".join(COMMAND.format(arguments=arguments) for arguments in [*asked, ["--version"]])
    assert imported_by(runs) == []


def test_configs_are_shown_without_what_runs_them() -> None:
    shown = [["config", "show", "configs/embedded.yaml", "task=inpainting"], ["config", "schema"]]
    runs = "".join(COMMAND.format(arguments=arguments) for arguments in shown)
    assert imported_by(runs) == ["pydantic"]


@pytest.mark.parametrize("words", [words for words, parser in PARSERS.items() if parser.add_help])
def test_every_help_says_what_the_command_does_and_has_an_example(words: tuple[str, ...]) -> None:
    parser = PARSERS[words]
    assert parser.description
    assert parser.epilog is not None and parser.epilog.startswith("example: ")
    assert " ".join(("tokenring-xdit", *words)) in parser.epilog


@pytest.mark.parametrize("words", [words for words, parser in PARSERS.items() if parser.get_default("action")])
def test_every_command_names_a_function_that_there_is(words: tuple[str, ...]) -> None:
    module, _, function = PARSERS[words].get_default("action").partition(":")
    assert callable(getattr(importlib.import_module(f"tokenring_xdit.cli.{module}"), function))


def test_every_command_does_something() -> None:
    leaves = {words for words, parser in PARSERS.items() if not parser._subparsers and words[:1] != ("launch",)}
    assert leaves == {words for words, parser in PARSERS.items() if parser.get_default("action")}


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (["ask", "a-model", "--ranks", "2", "Who did it?"], {"model": "a-model", "question": "Who did it?"}),
        (["ask", "a-model", "Who did it?", "--ranks", "2"], {"model": "a-model", "question": "Who did it?"}),
        (["run", "a.yaml", "--steps", "2", "seed=3"], {"said": ["a.yaml", "seed=3"]}),
        (["bench", "a.yaml", "--resume", "rounds=3"], {"overrides": ["rounds=3"]}),
        (["serve", "embedded", "--port", "0", "tokenring_degree=2"], {"values": ["tokenring_degree=2"]}),
        (["ask", "a-model", "--ranks", "2", "--", "-5 or more?"], {"question": "-5 or more?"}),
        (["ask", "a-model", "--", "-5 or more?"], {"question": "-5 or more?"}),
    ],
)
def test_what_has_no_name_may_stand_behind_options(words: list[str], taken: dict[str, object]) -> None:
    args = vars(read_command(words))
    assert {key: args[key] for key in taken} == taken


@pytest.mark.parametrize("words", [["ask", "a-model", "one", "--ranks", "2", "two"], ["run", "a.yaml", "--stepz", "2"]])
def test_what_nothing_takes_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        read_command(words)
