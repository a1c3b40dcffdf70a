"""Configs, sweeps and topologies as nobody writes them: refused in one short message, soon, without a traceback.

The default is a few of each, always the same; ``TOKENRING_FUZZ=1000`` makes as many, from another seed each time.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenring_xdit.bench import SweepConfig, inspect_models, planned_keys
from tokenring_xdit.cli import main
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import TokenRingError

ROOT = Path(__file__).parents[1]
ASKED = os.environ.get("TOKENRING_FUZZ")
COUNT = int(ASKED or 40)

LONGEST_MESSAGE = 4096
LONGEST_TIME = 5.0
"""Seconds of this process, so that other work of the machine does not count; far above what any takes."""

NAMES = "abcdefgh"
BOMB = ["&a [x,x,x,x,x,x,x,x,x]", *(f"&{n} [{','.join(['*' + NAMES[i]] * 9)}]" for i, n in enumerate(NAMES[1:]))]
MERGES = ["&a {p: 1, q: 2}", *(f"&{n} {{<<: [{','.join(['*' + NAMES[i]] * 9)}]}}" for i, n in enumerate(NAMES[1:]))]

VALUES = [
    "",
    "null",
    "yes",
    "-1",
    "0",
    "2147483648",
    "9" * 30,
    "9" * 5000,
    "0x" + "f" * 5000,
    "1:" * 3000 + "1",
    "1e999",
    "-.inf",
    ".nan",
    "1" * 400 + "mbit",
    "0.0000001bit",
    "2024-02-30",
    "2024-01-01T00:00:00+99:99",
    "0001-01-01 00:00:00 +23:59",
    "!!binary AAAA",
    "!!set {a, b}",
    "!!int ''",
    "!!timestamp x",
    "!!python/object:os.system a",
    "! 7",
    "[]",
    "{}",
    "[[[1]]]",
    "{a: {b: {c: [1, {d: e}]}}}",
    "{1: 2, null: 3, 2024-01-01: 4}",
    "[" * 300 + "]" * 300,
    "{a: " * 300 + "1" + "}" * 300,
    "[" * 6000,
    "[" + ", ".join(BOMB) + "]",
    "[" + ", ".join(MERGES) + "]",
    "&me {again: *me}",
    "&me [*me, *me]",
    "&me {<<: *me}",
    "*nobody",
    '"\\e]0;title\\a\\e[31mred\\n  size: a mistake that nobody made"',
    '"a\\n  b: made up"',
    '"\\u009b31m"',
    '"\\u202e reversed \\u2028"',
    '"\\ud800"',
    '"\\0"',
    "'" + "long " * 20000 + "'",
    "x" * 100000,
    "[" + "x, " * 60000 + "x]",
    "[" + ", ".join(str(i) for i in range(3000)) + "]",
    "direct:chunks=" + "9" * 5000,
    "direct:chunks=999999999",
    "mesh:rows=99999999",
    "hierarchical:nodes=99999999,inside=mesh",
    "schedule:direct:chunks=" + "9" * 5000,
    "ulysses=" + "9" * 5000 + "+schedule:direct",
    "auto:nodes=" + "9" * 5000,
    "random-flux:heads=" + "9" * 5000,
    "random-flux:double=999999999,single=999999999",
    "mesh:4096:1gbit",
    "mesh:" + "9" * 5000 + ":1gbit",
    "two-level:4096x4096:1gbit:1gbit",
    "hgx-h100*4096@ib-ndr",
    "9" * 4000 + "x" + "9" * 4000,
    "1000000000x1000000000",
    "none.yaml",
    "/dev/zero",
    "a/" * 3000 + "b.yaml",
    "n" * 300 + ".yaml",
    "?",
    "? [a]\n: b",
    "|\n  many\n  lines\n",
    "a: b",
    "- a\n- b",
    "\x1b[31m",
    "\x00",
    "%",
    "@",
    "'",
    '"',
    "---",
    "...",
]

LINES = [
    *(f"{name}: {value}" for name, value in zip(NAMES, BOMB, strict=True)),
    "extends: fuzzed.yaml",
    "extends: other.yaml",
    "extends: [1]",
    "\x1b[31mkey: 1",
    '"\\e[31m\\n  key": 1',
    "k" * 5000 + ": 1",
    "\n".join(f"unknown{i}: {i}" for i in range(2000)),
    "\n".join("steps: 1" for _ in range(300)),
    "\n".join(f"&a{i} k{i}: &b{i} {'[*b' + str(i - 1) + ']' if i else '1'}" for i in range(200)),
    "<<: {steps: 1}",
    "1: 2",
    "null: 3",
    "\ttab: 1",
    "# only a remark",
    "---",
    "cases: [{toknes: 1}, {}, 3]",
    "cases: [" + "{tokens: 128}, " * 3000 + "{}]",
    "ranks: [" + ", ".join(str(i) for i in range(1, 2000)) + "]\ntokens: [" + "1, " * 2000 + "1]",
    "links: [{between: [h0, h1], rate: 1gbit, delay: 1e400}]",
    "hosts: 999999999999",
    "measured: {devices: [[1], {a: b}], network: [1]}",
]

OVERRIDES = [
    "steps",
    "=",
    ".=1",
    "options..a=1",
    "options." + "a." * 2000 + "b=1",
    "options=" + "[" * 5000,
    "options={a: &a [1], b: *a}",
    "prompt=" + "a red circle left of a blue square, " * 40,
    "prompt=\x1b[31m\n  size: made up",
    "\x1b[31m=1",
    "extends=other.yaml",
    "steps=" + "1:" * 3000 + "1",
    "model=" + "m" * 3000,
    "size=" + "9" * 6000,
]


def mutated(text: str, chance: random.Random) -> str:
    """A text with one to three changes that people, or their enemies, could make."""
    for _ in range(chance.randint(1, 3)):
        lines = text.split("\n")
        at = chance.randrange(len(lines))
        change = chance.randrange(7)
        key, colon, _ = lines[at].partition(":")
        if change <= 2 and colon and not key.startswith("#"):
            lines[at] = f"{key}: {chance.choice(VALUES)}"
        elif change == 3:
            lines.insert(at, chance.choice(LINES))
        elif change == 4:
            lines.insert(at, chance.choice(lines))
        elif change == 5:
            del lines[at]
        else:
            place = chance.randrange(len(lines[at]) + 1)
            lines[at] = (
                lines[at][:place] + chance.choice("[]{}:,&*!|>'\"%@`#-?\t\x00\x1b\x85\u202e\ufeff") + lines[at][place:]
            )
        text = "\n".join(lines) or "\n"
    return text


def show_run(path: Path, override: list[str]) -> int:
    return main(["config", "show", str(path), *override])


def show_run_as_json(path: Path, override: list[str]) -> int:
    return main(["config", "show", "--json", str(path), *override])


def check_run(path: Path, override: list[str]) -> int:
    return main(["config", "check", str(path), *override])


def read_sweep(path: Path, override: list[str]) -> int:
    try:
        config = read_config(SweepConfig, path, override, inspect=inspect_models)
        planned_keys(config)
        for cases in config.comparisons().values():
            for case in cases:
                case.refusal()
    except TokenRingError as error:
        print(f"tokenring-xdit: {error}", file=sys.stderr)
        return 2
    return 0


def show_topology(path: Path, override: list[str]) -> int:
    code = main(["topology", "show", str(path), "--yaml"])
    assert code or main(["topology", "show", str(path)]) == main(["topology", "show", str(path), "--json"]) == 0
    return code


RUNS = ["model: embedded\nprompt: a\nsize: 64\nsteps: 2\noptions: {max_sequence_length: 24}\n", "embedded.yaml"]
SWEEPS = [str(path.relative_to(ROOT / "configs")) for path in sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))]
TOPOLOGIES = [
    "hosts: 2\nlinks:\n  - {between: [h0, h1], rate: 1gbit, back: 2gbit, delay: 0.000005}\n"
    "measured: {devices: [cpu, cpu]}\n",
    "hosts: [a, b]\nswitches: [s]\nhosts-forward: false\ncounts: payload\nnotes: [x]\nlinks:\n"
    "  - {between: [a, s], rate: 25gbit}\n  - {between: [b, s], rate: 25gbit}\n",
]


@pytest.mark.parametrize(
    ("sources", "command"),
    [(RUNS, check_run), (RUNS, show_run), (RUNS, show_run_as_json), (SWEEPS, read_sweep), (TOPOLOGIES, show_topology)],
    ids=["check", "show", "json", "sweep", "topology"],
)
def test_whatever_a_file_says_it_is_read_or_refused_in_one_short_message(
    sources: list[str],
    command: Callable[[Path, list[str]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "other.yaml").write_text("model: embedded\nprompt: b\n")
    path = tmp_path / "fuzzed.yaml"
    seed = random.randrange(10**6) if ASKED else 0
    for number in range(COUNT):
        chance = random.Random(f"{seed} {number}")
        source = chance.choice(sources)
        text = (ROOT / "configs" / source).read_text(encoding="utf-8") if source.endswith(".yaml") else source
        path.write_text(mutated(text, chance), encoding="utf-8", newline="")
        overrides = [chance.choice(OVERRIDES)] if chance.random() < 0.3 else []
        start, failure = time.process_time(), None
        try:
            code = command(path, overrides)
        except Exception:
            code, failure = -1, traceback.format_exc()
        took = time.process_time() - start
        message = capsys.readouterr().err
        said = path.read_text(encoding="utf-8", errors="replace")[:800]
        about = f"seed {seed}, number {number}: {said!r} {str(overrides)[:200]}"
        assert failure is None, f"{about}\n{failure}"
        assert code in {0, 2}, f"{about}\n{message}"
        assert len(message) <= LONGEST_MESSAGE, f"{about}\n{len(message)} characters: {message[:500]}"
        assert all(character.isprintable() or character == "\n" for character in message), f"{about}\n{message!r}"
        assert took < LONGEST_TIME, f"{about}\n{took:.1f} s"
