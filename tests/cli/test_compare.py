from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support import commands
from tokenring_xdit.cli import main

PROMPT = "a red circle left of a blue square"


@pytest.mark.e2e
def test_every_strategy_draws_the_picture_of_one_rank(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = commands.run("compare", PROMPT, "--ranks", "2", "--steps", "4", "--rounds", "2", "--output", str(sheet))
    assert result.returncode == 0, result.stderr
    report = json.loads(sheet.with_suffix(".json").read_text())
    entries = {entry["name"]: entry for entry in report["strategies"]}
    assert list(entries) == ["one rank", "Ulysses", "Ring", "TokenRing"]
    for name, entry in entries.items():
        assert entry["ms_per_step"] > 0
        assert len(entry["step_ms"]) == 2 * 3  # rounds x steps but the first
        if name != "one rank":
            assert entry["max_relative_difference"] <= 1e-5
            assert len(entry["bytes_sent_per_rank"]) == 2
            assert min(entry["bytes_sent_per_rank"]) > 0
    # 6 attention layers x 4 steps; 44 tokens a rank of 192 floats: Ring sends K and V, TokenRing Q and O with its LSE.
    tokens, layers_and_steps = 44, 6 * 4
    assert entries["Ring"]["bytes_sent_per_rank"] == [layers_and_steps * tokens * 192 * 4 * 2] * 2
    assert entries["TokenRing"]["bytes_sent_per_rank"] == [layers_and_steps * tokens * (192 * 4 * 2 + 4 * 4)] * 2
    with Image.open(sheet) as picture:
        assert picture.width > 4 * 256
        assert len(picture.getcolors(maxcolors=1 << 24)) > 50
    assert str(sheet) in result.stdout


@pytest.mark.e2e
def test_strategies_that_cannot_run_are_reported_and_the_others_run(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = commands.run(
        "compare", PROMPT, "--ranks", "3", "--steps", "2", "--rounds", "1", "--output", str(sheet), "--json"
    )
    assert result.returncode == 0, result.stderr
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)["strategies"]}
    assert "does not divide the model's 4 heads" in entries["Ulysses"]["refused"]
    assert "8 rows of image tokens" in entries["Ring"]["refused"]
    assert entries["TokenRing"]["max_relative_difference"] <= 1e-5
    assert sheet.exists()


@pytest.mark.parametrize("options", [["--ranks", "1"], ["--rounds", "0"], ["--output", "sheet.gif"], ["--ranks", "90"]])
def test_refusals(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert main(["compare", PROMPT, *options]) == 2
    assert capsys.readouterr().err.startswith("tokenring-xdit: ")
