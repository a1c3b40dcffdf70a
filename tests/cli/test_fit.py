"""``tokenring-xdit fit``: how many tokens fit, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.language import small_model_folder
from tokenring_xdit.cli import main


def found(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["fit", *arguments, "--json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_more_ranks_hold_more(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = {}
    for ranks in ("1", "4"):
        answer = found(["llama-3.1-8b", "--ranks", ranks, "--memory", "24GiB"], capsys)
        assert answer["memory"] == 24 << 30
        for way in ("whole", "chunks"):
            assert answer[way]["fits"]
            assert answer[way]["total"] <= (24 << 30) - (1 << 30)
        tokens[ranks] = answer["chunks"]["tokens"]
        assert ("unmodified_chunks" in answer) is (ranks == "1")
    assert tokens["4"] > 3.6 * tokens["1"]


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "llama-3.1-8b", "--ranks", "8", "--memory", "80GB", "--tokens", "1m"]) == 0
    printed = capsys.readouterr().out
    assert "forecast, not measured. A token's keys: 128.00 KiB" in printed
    assert "in chunks of 4096 (prefill_chunk_size=4096): 1048576 tokens: fits" in printed
    assert main(["fit", "llama-3.1-405b", "--memory", "80GB"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("nothing fits; the weights take 755.9") == 4
    assert "without parallelize (sdpa), in chunks of 4096 (prefill_chunk_size=4096): nothing fits" in printed


def test_of_a_model_to_be_loaded_only_the_configuration_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_model_folder(tmp_path, "qwen3")
    weights = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    answer = found([str(tmp_path), "--memory", "64MiB", "--spare", "0B", "--dtype", "float32", "--ranks", "2"], capsys)
    whole = answer["whole"]
    assert weights * 0.9 < whole["weights"] <= weights
    assert whole["weights"] % torch.float32.itemsize == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["llama-3.1-8b", "--memory", "80"], "'80' is not an amount of memory"),
        (["llama-3.1-8b", "--memory", "80GB", "--tokens", "many"], "'many' is not a number of tokens"),
        (["llama-3.1-8b", "--memory", "80GB", "--ranks", "0"], "--ranks 0: it has to be at least 1"),
        (["llama-3.1-8b", "--memory", "80GB", "--tokens", "0"], "--tokens 0: it has to be at least 1"),
        (["llama-3.1-8b", "--memory", "1GiB"], "--spare of 1.00 GiB leaves nothing of a --memory of 1.00 GiB"),
        (["./nowhere", "--memory", "80GB"], "there is no model folder './nowhere'"),
        (["llama-3.1-8c", "--memory", "80GB"], "Did you mean 'llama-3.1-8b'?"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *arguments]) == 2
    assert message in capsys.readouterr().err
