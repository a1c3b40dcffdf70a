"""``tokenring-xdit run`` and ``config`` with ``task: text``, against the unmodified model in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import commands
from tests.support.language import small_model_folder
from tokenring_xdit.cli import main
from tokenring_xdit.pipelines import text_models

BOOK = "It was a dark and stormy night; the rain fell in torrents. " * 6
PROMPTS = ["Who did it?", "Why?"]
OPTIONS = {"max_new_tokens": 10, "temperature": 1.5}
SEED = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, a text and a config."""
    small_model_folder(tmp_path / "model")
    (tmp_path / "book.txt").write_text(BOOK)
    values: dict[str, Any] = {"task": "text", "model": str(tmp_path / "model"), "prompt": PROMPTS, "seed": SEED}
    values |= {"context": str(tmp_path / "book.txt"), "options": OPTIONS, "tokenring_degree": 2, "dtype": "float32"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def expected(folder: Path) -> list[tuple[list[int], str]]:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    found = []
    for number, prompt in enumerate(PROMPTS):
        messages = [{"role": "user", "content": f"{BOOK}\n\n{prompt}"}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, return_tensors="pt").input_ids
        torch.manual_seed(SEED + number)
        said = model.generate(ids, do_sample=True, **OPTIONS)[0, ids.shape[1] :]
        found.append((said.tolist(), tokenizer.decode(said, skip_special_tokens=True)))
    return found


@pytest.mark.parametrize("name", ["new folder/answers.txt", pytest.param("answers.json", marks=pytest.mark.matrix)])
@pytest.mark.e2e
def test_prompts_are_answered_into_files_by_ranks_of_its_own(folder: Path, name: str) -> None:
    output = folder / name
    done = commands.run("run", str(folder / "run.yaml"), f"output={output}", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ranks"] == 2
    wanted = expected(folder)
    assert [(entry["tokens"], entry["answer"]) for entry in told["written"]] == wanted
    assert [entry["seed"] for entry in told["written"]] == [SEED, SEED + 1]
    assert told["written"][1]["reused_tokens"] >= len(BOOK)  # the context was read once
    assert max(told["written"][0]["keys"]) < told["written"][0]["prompt_tokens"]
    if output.suffix == ".json":
        written = json.loads(output.read_text())
        assert written == [{key: entry[key] for key in entry if key != "output"} for entry in told["written"]]
    else:
        files = [output.with_stem(f"answers-{number}") for number in range(2)]
        assert [entry["output"] for entry in told["written"]] == [str(file) for file in files]
        assert [file.read_bytes().decode() for file in files] == [f"{text}\n" for _, text in wanted]


@pytest.mark.e2e
def test_under_torchrun_the_command_is_one_of_the_ranks(folder: Path) -> None:
    output = folder / "answers.json"
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*start, "-m", "tokenring_xdit.cli", "run", str(folder / "run.yaml"), f"output={output}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"wrote {output} (2 ranks, ") == 2
    assert [(entry["tokens"], entry["answer"]) for entry in json.loads(output.read_text())] == expected(folder)


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_rank_that_refuses_is_heard(folder: Path) -> None:
    done = commands.run("run", str(folder / "run.yaml"), "tokens_per_rank=50", f"output={folder / 'a.txt'}")
    assert done.returncode == 1
    assert "where 50 are allowed: use more ranks than 2" in done.stderr
    assert not list(folder.glob("a*.txt"))


@pytest.mark.e2e
def test_nodes_with_different_texts_are_refused_on_all(folder: Path) -> None:
    (folder / "other.txt").write_text(BOOK + "!")
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(commands.free_port())}
    ranks = [
        commands.start(
            "run",
            str(folder / "run.yaml"),
            f"context={folder / ('other.txt' if rank else 'book.txt')}",
            environment={**world, "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(ranks):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert f"rank {rank} failed: all ranks make one run together, but context is " in err


@pytest.mark.parametrize(
    ("said", "messages"),
    [
        (
            ["task=texts"],
            ["task: 'texts' is not allowed. Known: image-to-image, image-to-video, inpainting", "Did you mean 'text'?"],
        ),
        (["steps=4"], ["steps: there is no such key"]),
        (["max_new_tokens=4"], ["max_new_tokens: there is no such key; it is called 'options.max_new_tokens' here"]),
        (["options.max_tokens=4"], ["options: there is no generation option 'max_tokens'. Known: "]),
        (["options.top_p=4"], ["options: top_p is 4; it has to be a number above 0 and at most 1"]),
        (["context=nowhere.txt"], ["context: nowhere.txt cannot be read as a text: No such file"]),
        (["output=a.png"], ["output: 'a.png' does not end in .txt or .json"]),
        (["tokenring_degree=0", "prompt=[]"], ["2 mistakes", "tokenring_degree: 0", "prompt: the list is empty"]),
        (
            ["model=nothing"],
            ["model: there is no model folder 'nothing'. A model is a folder, a hub name such as Qwen/"],
        ),
        (["model=embedded"], ["model: there is no model folder 'embedded'"]),
        (["task=picture"], ["context: there is no such key"]),
    ],
)
def test_mistakes_are_found_before_anything_starts(
    folder: Path, said: list[str], messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["run"], ["config", "check"]):
        assert main([*command, str(folder / "run.yaml"), *said]) == 2
        err = capsys.readouterr().err
        for message in messages:
            assert message in err


def test_a_language_model_in_a_run_of_pictures_is_told_by_its_task(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--model", str(folder / "model"), "--prompt", "Who?"]) == 2
    assert "it is a language model: write task: text" in capsys.readouterr().err


def test_configs_of_texts_are_checked_shown_and_described(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(folder / "run.yaml")
    assert main(["config", "check", path]) == 0
    assert capsys.readouterr().out == f"{path}: fine\n"
    assert main(["config", "show", path, "options.top_k=3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["options"] == {**OPTIONS, "top_k": 3}
    assert main(["config", "schema", "--task", "text", "--json"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert list(schema["properties"]) == list(shown)
    assert {"required": ["model", "task"]} in schema["anyOf"]
    monkeypatch.setattr(text_models, "_PACKAGE", "no_such_package")
    assert main(["config", "check", "configs/smollm2.yaml"]) == 0
    out = capsys.readouterr().out
    assert "configs/smollm2.yaml: fine, but the model was not looked at: the language model 'smollm2' is not" in out


@pytest.mark.e2e
def test_a_launch_of_a_text_is_planned(folder: Path) -> None:
    done = commands.run("launch", "node", "--dry-run", "--cpu", str(folder / "run.yaml"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f" -m tokenring_xdit.cli run {folder / 'run.yaml'}\n")
