from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.support import commands
from tokenring_xdit.cli import main

PROMPT = "a red circle left of a blue square"
FAR = "3000"  # steps: longer than any of these tests


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


@pytest.mark.e2e
def test_a_picture_from_a_prompt_is_the_same_on_one_rank_and_on_several(tmp_path: Path) -> None:
    one, several = tmp_path / "one.png", tmp_path / "new folder" / "several.png"
    for output, degrees in ((one, ["1", "1"]), (several, ["2", "2"])):
        options = ["--ulysses-degree", degrees[0], "--tokenring-degree", degrees[1], "--schedule", "auto"]
        drawing = ["--steps", "6", "--seed", "3", "--output", str(output), "--json"]
        known = {"TOKENRING_TOPOLOGY": "two-level:2x2:10gbit:1gbit"}
        result = commands.run("generate", PROMPT, *options, *drawing, environment=known)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("schedule auto: ") == (0 if output is one else 1)  # all calls have the same shape
        answer = json.loads(result.stdout)
        assert answer["output"] == str(output)
        assert answer["ranks"] == int(degrees[0]) * int(degrees[1])
        assert answer["ms_per_step"] > 0
        assert "denoising" in result.stderr  # the progress bar
    assert pixels(one).shape == (64, 64, 3)
    assert np.abs(pixels(one) - pixels(several)).max() <= 1


@pytest.mark.e2e
def test_a_size_that_nothing_divides(tmp_path: Path) -> None:
    output = tmp_path / "odd.png"
    result = commands.run(
        "generate", PROMPT, "--tokenring-degree", "3", "--size", "72x40", "--steps", "2", "--output", str(output)
    )
    assert result.returncode == 0, result.stderr
    assert f"wrote {output} (3 ranks, " in result.stdout
    assert "trained on pictures of 64x64 pixels" in result.stderr
    assert pixels(output).shape == (40, 72, 3)


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--tokenring-degree", "2", "--ranks", "4"], ["--ranks 4 does not fit", "make 2"]),
        (["--ulysses-degree", "3"], ["does not divide the model's 4 heads", "1, 2, 4", "tokenring_degree takes any"]),
        (["--ring-degree", "5"], ["24 text tokens", "tokenring_degree=5 takes any length"]),
        (["--ring-degree", "3"], ["8 rows of image tokens among 3 ranks", "tokenring_degree=3"]),
        (["--tokenring-degree", "65"], ["65 ranks are more than the 64 image tokens"]),
        (["--tokenring-degree", "4", "--schedule", "mesh:rows=3"], ["works for multiples of 3 ranks, not for 4"]),
        (["--tokenring-degree", "0"], ["tokenring_degree is 0"]),
        (["--schedule", "tokenrng"], ["no schedule 'tokenrng'", "Did you mean 'token_ring'?"]),
        (["--model", "./no/such/folder"], ["there is no model folder './no/such/folder'"]),
        (["--model", "nobody/no-such-model"], ["there is no model folder 'nobody/no-such-model'", "hub"]),
        (["--size", "63"], ["not a multiple of 8 pixels"]),
        (["--size", "wide"], ["size 'wide' is neither"]),
        (["--steps", "0"], ["steps is 0; it has to be a whole number of at least 1"]),
        (["--guidance", "nan"], ["guidance is nan"]),
        (["--guidance", "-1"], ["guidance is -1.0; it has to be a number of at least 0"]),
        (["--seed", "-1"], ["seed is -1"]),
        (["--size", "16x100000"], ["height is 100000 pixels, and 4096 are the most", "largest_side"]),
        (["--size", "128", "--largest-side", "64"], ["width is 128 pixels, and 64 are the most"]),
        (["--output", "picture.jpg"], ["has to end in .png"]),
        (["--output", "/proc/no/picture.png"], ["--output /proc/no/picture.png cannot be written"]),
    ],
)
def test_refusals_come_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], messages: list[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # instead of retrying a hub out of reach
    assert main(["generate", PROMPT, *options]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("tokenring-xdit: ")
    for message in messages:
        assert message in err


def test_a_folder_that_is_no_flux_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", PROMPT, "--model", str(tmp_path)]) == 2
    assert "it has no model_index.json" in capsys.readouterr().err
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    assert main(["generate", PROMPT, "--model", str(tmp_path)]) == 2
    assert "is a PixArtAlphaPipeline" in capsys.readouterr().err


def test_words_that_the_embedded_model_does_not_know_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "A red Fox, left of a dog.", "--ulysses-degree", "3"]) == 2
    err = capsys.readouterr().err
    assert "not among them: dog, fox;" in err
    assert main(["generate", "A red circle.", "--ulysses-degree", "3"]) == 2
    assert "note:" not in capsys.readouterr().err


def test_an_empty_prompt_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "  "]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=5)
    return not alive


@pytest.mark.e2e
def test_a_rank_that_is_killed_is_named_and_takes_the_others_along(tmp_path: Path) -> None:
    with commands.start(
        "generate", PROMPT, "--tokenring-degree", "3", "--steps", FAR, "--output", str(tmp_path / "p.png")
    ) as process:
        ranks = commands.ranks_of(process, 3)
        wait_until_drawing(process)
        began = time.monotonic()
        ranks[1].kill()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - began < 30
    assert f"rank 1 was killed by SIGKILL, as Linux does when memory runs out (process {ranks[1].pid})" in err
    assert gone(list(ranks.values()))
    assert not (tmp_path / "p.png").exists()


def wait_until_drawing(process: object) -> None:
    """Read the command's errors until its progress bar moves."""
    seen = ""
    while "1/" + FAR not in seen:
        character = process.stderr.read(1)  # type: ignore[attr-defined]
        assert character, f"the command ended: {seen}"
        seen += character


@pytest.mark.e2e
def test_a_rank_that_raises_is_named_with_its_error(tmp_path: Path) -> None:
    code = """
import os
if os.environ.get("RANK") == "2":
    import wrapt

    def break_it(module):
        def generate(*args, **kwargs):
            raise MemoryError("the card is full")
        module.generate = generate

    wrapt.register_post_import_hook(break_it, "tokenring_xdit.pipelines.flux")
"""
    began = time.monotonic()
    options = ["--tokenring-degree", "3", "--steps", FAR, "--output", str(tmp_path / "p.png")]
    result = commands.run("generate", PROMPT, *options, environment=commands.fault(tmp_path, code))
    assert result.returncode == 1
    assert "rank 2 failed: MemoryError: the card is full" in result.stderr
    assert "Traceback" not in result.stderr
    traceback = Path(result.stderr.split("(traceback: ")[1].split(")")[0])
    assert "in generate" in traceback.read_text()
    assert time.monotonic() - began < 120


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)], ids=["ctrl-c", "terminate"]
)
@pytest.mark.e2e
def test_an_interruption_leaves_no_process_behind(tmp_path: Path, how: signal.Signals, code: int) -> None:
    with commands.start(
        "generate", PROMPT, "--tokenring-degree", "2", "--steps", FAR, "--output", str(tmp_path / "p.png")
    ) as process:
        ranks = commands.ranks_of(process, 2)
        wait_until_drawing(process)
        process.send_signal(how)
        process.communicate(timeout=60)
    assert process.returncode == code
    assert gone(list(ranks.values()))


@pytest.mark.e2e
def test_ranks_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    with commands.start(
        "generate", PROMPT, "--tokenring-degree", "2", "--steps", FAR, "--output", str(tmp_path / "p.png")
    ) as process:
        ranks = commands.ranks_of(process, 2)
        wait_until_drawing(process)
        process.kill()
        process.wait(timeout=30)
    assert gone(list(ranks.values()))
