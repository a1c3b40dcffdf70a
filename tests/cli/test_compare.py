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
        assert entry["seconds"]["median"] > 0
        assert len(entry["seconds"]["rounds"]) == 2
        if name != "one rank":
            assert 0 < entry["max_error"] <= 1e-5  # nothing is computed in the same order
            assert len(entry["bytes_sent"]) == 2
            assert min(entry["bytes_sent"]) > 0
    # 6 attention layers x 4 steps; 44 tokens a rank of 192 floats: Ring sends K and V, TokenRing Q and O with its LSE.
    tokens, layers_and_steps = 44, 6 * 4
    assert entries["Ring"]["bytes_sent"] == [layers_and_steps * tokens * 192 * 4 * 2] * 2
    assert entries["TokenRing"]["bytes_sent"] == [layers_and_steps * tokens * (192 * 4 * 2 + 4 * 4)] * 2
    with Image.open(sheet) as picture:
        assert picture.width > 4 * 256
        assert len(picture.getcolors(maxcolors=1 << 24)) > 50
    assert str(sheet) in result.stdout


@pytest.mark.e2e
@pytest.mark.matrix
def test_strategies_that_cannot_run_are_reported_and_the_others_run(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = commands.run(
        "compare", PROMPT, "--ranks", "3", "--steps", "2", "--rounds", "1", "--output", str(sheet), "--json"
    )
    assert result.returncode == 0, result.stderr
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)["strategies"]}
    assert "4 heads do not divide by 3 ranks" in entries["Ulysses"]["error"]
    assert "8 rows of image tokens" in entries["Ring"]["error"]
    assert entries["TokenRing"]["max_error"] <= 1e-5
    assert sheet.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ranks", "1"], "a comparison needs 2 ranks or more"),
        (["--rounds", "0"], "rounds: 0 is not allowed; it has to be at least 1"),
        (["--output", "sheet.gif"], "has to end in .png"),
        (["--ranks", "90"], "90 ranks are more than the 64 image tokens"),
        (["--size", "63"], "not a multiple of 8 pixels"),
        (["--guidance", ".nan"], "guidance: nan is not a finite number"),
        (["--schedule", "tokenrng"], "Did you mean 'token_ring'?"),
        (["--model", "./no/such/folder"], "there is no model folder './no/such/folder'"),
        (["--dtype", "flaot16"], "'flaot16' is not a dtype"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["compare", PROMPT, *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tokenring-xdit: ")
    assert message in err


def test_a_model_that_is_no_flux_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", PROMPT, "--model", str(tmp_path)]) == 2
    assert "it has no model_index.json" in capsys.readouterr().err
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    assert main(["compare", PROMPT, "--model", str(tmp_path)]) == 2
    assert "is a PixArtAlphaPipeline" in capsys.readouterr().err


def test_an_empty_prompt_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "  "]) == 2
    assert "the prompt is empty" in capsys.readouterr().err
