"""``tokenring-xdit compare`` of a language model: one process against ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.support import commands
from tests.support.language import small_model_folder
from tokenring_xdit.cli import main

CONTEXT = "It was a dark and stormy night; the rain fell in torrents. " * 6


@pytest.mark.e2e
def test_a_text_over_ranks(tmp_path: Path) -> None:
    folder, context, output = tmp_path / "model", tmp_path / "context.txt", tmp_path / "compare.json"
    small_model_folder(folder, "gemma3")
    context.write_text(CONTEXT)
    result = commands.run(
        "compare",
        "Why?",
        "--model",
        str(folder),
        "--context",
        str(context),
        "--ranks",
        "2",
        "--rounds",
        "1",
        "--max-new-tokens",
        "8",
        "--output",
        str(output),
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(output.read_text())
    tokens = AutoTokenizer.from_pretrained(folder)(f"{CONTEXT}\n\nWhy?").input_ids
    one, *others = report["strategies"]
    assert (one["name"], one["tokens"]) == ("single", len(tokens))
    assert [entry["name"] for entry in others] == ["balanced", "pass-kv", "pass-q"]
    for entry in others:
        assert 0 < entry["max_error"] <= 1e-5
        assert entry["same_answer"]
        assert max(entry["keys_held"]) <= len(tokens) / 2 + 33
        assert min(entry["bytes_sent"]) > 0
    assert result.stdout.count("the same 8 tokens") == 3
    assert result.stdout.count("logits of all tokens differ by") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "smollm2", "--steps", "3"], "--steps cannot be combined with smollm2, a language model"),
        (["--max-new-tokens", "3"], "--max-new-tokens cannot be combined with embedded, a model of pictures"),
        (["--model", "smollm2", "--output", "a.png"], "of a language model a JSON is written"),
        (["--model", "smollm2", "--context", "nowhere.txt"], "--context nowhere.txt cannot be read"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "Why?", *arguments]) == 2
    assert message in capsys.readouterr().err
