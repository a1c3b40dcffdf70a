"""``tokenring-xdit score``: against the unmodified model in one process."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import commands
from tests.support.language import small_model_folder
from tokenring_xdit.cli import main

TEXT = "It was a dark and stormy night; the rain fell in torrents. Zwölf Boxkämpfer 🙂 日本語 " * 7


@pytest.mark.e2e
@torch.no_grad()
def test_log_probability_and_perplexity(tmp_path: Path) -> None:
    folder, file = tmp_path / "model", tmp_path / "text.txt"
    small_model_folder(folder, "gemma3")
    file.write_text(TEXT, encoding="utf-8-sig")  # with a byte order mark, which is no part of the text
    result = commands.run("score", str(folder), str(file), "--ranks", "2", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    scores = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).double()
    assert found["tokens"] == ids.shape[1]
    assert found["log_probability"] == pytest.approx(float(scores.sum()), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(-float(scores.mean())), rel=1e-5)
    assert len(found["bytes_sent"]) == 2 and min(found["bytes_sent"]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.txt"], "FILE nowhere.txt cannot be read"),
        (["/dev/null"], "FILE /dev/null is empty"),
        ([__file__, "--ranks", "0"], "--ranks 0: it has to be at least 1"),
    ],
)
def test_mistakes_are_refused_before_ranks_start(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "somewhere", *arguments]) == 2
    assert message in capsys.readouterr().err
