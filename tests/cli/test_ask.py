"""``tokenring-xdit ask``: as a user types it, against the unmodified model in one process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import commands
from tests.support.language import small_model_folder
from tokenring_xdit.cli import main

CONTEXT = "It was a dark and stormy night; the rain fell in torrents. " * 20

QUESTIONS = ["Who did it?", "Why?"]


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "chat"), [("llama", True), pytest.param("gemma3", False, marks=pytest.mark.matrix)])
def test_questions_on_one_cache(tmp_path: Path, kind: str, chat: bool) -> None:
    folder, context = tmp_path / "model", tmp_path / "context.txt"
    small_model_folder(folder, kind, chat=chat)
    context.write_text(CONTEXT)
    command = [*commands.COMMAND, "ask", str(folder), "--ranks", "2", "--context", str(context), "--json"]
    result = subprocess.run(
        [*command, "--max-new-tokens", "12"],
        input="\n".join(QUESTIONS),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(QUESTIONS)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    messages: list[dict[str, str]] = []
    for number, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True)):
        messages.append({"role": "user", "content": question if number else f"{CONTEXT}\n\n{question}"})
        text = "\n".join(message["content"] for message in messages) + "\n"
        if chat:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert answer["prompt_tokens"] == ids.shape[1]
        with torch.no_grad():
            said = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert answer["answer"] == tokenizer.decode(said, skip_special_tokens=True)
        assert max(answer["keys"]) < ids.shape[1] / 2 + 64
        messages.append({"role": "assistant", "content": answer["answer"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0"], "--ranks 0: it has to be at least 1"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["--tokens-per-rank", "0"], "--tokens-per-rank 0"),
        (["--temperature", "-1"], "temperature is -1.0; it has to be 0, or a number from 0.01 to 100"),
        (["--seed", "-1"], "seed is -1"),
        (["--context", "nowhere.txt"], "--context nowhere.txt cannot be read"),
    ],
)
def test_mistakes_are_refused_before_ranks_start(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "somewhere", "Why?", *arguments]) == 2
    assert message in capsys.readouterr().err


def asked_about_a_context(folder: Path) -> tuple[list[str], int]:
    """The words of a question about a context, with a model in a folder of its own, and the tokens of the context."""
    model, context = folder / "model", folder / "context.txt"
    small_model_folder(model)
    context.write_text(CONTEXT)
    command = ["ask", str(model), "Why?", "--context", str(context), "--max-new-tokens", "8", "--json"]
    return command, len(AutoTokenizer.from_pretrained(model)(CONTEXT).input_ids)


@pytest.mark.e2e
def test_more_keys_than_a_rank_may_hold_are_refused(tmp_path: Path) -> None:
    command, whole = asked_about_a_context(tmp_path)
    refused = commands.run(*command, "--tokens-per-rank", str(whole))
    assert refused.returncode == 2
    assert f"where {whole} are allowed: use more ranks than 1" in refused.stderr


@pytest.mark.e2e
@pytest.mark.matrix
def test_more_ranks_hold_what_one_may_not(tmp_path: Path) -> None:
    command, whole = asked_about_a_context(tmp_path)
    answered = commands.run(*command, "--tokens-per-rank", str(whole), "--ranks", "2")
    assert answered.returncode == 0, answered.stderr
    assert max(json.loads(answered.stdout)["keys"]) <= whole


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(tmp_path / "nothing"), "Why?"]) == 2
    assert "there is no model folder" in capsys.readouterr().err
    assert main(["ask", "embedded", "Why?"]) == 2
    assert "there is no model folder 'embedded'" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.matrix
def test_pieces_are_printed_and_temperature_draws(tmp_path: Path) -> None:
    small_model_folder(tmp_path)
    command = ["ask", str(tmp_path), "Why?", "--max-new-tokens", "9", "--temperature", "1.5", "--seed", "3"]
    said = commands.run(*command)
    assert said.returncode == 0, said.stderr
    assert "9 said in" in said.stderr
    told = json.loads(commands.run(*command, "--json").stdout)
    assert said.stdout == told["answer"] + "\n"
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    torch.manual_seed(3)
    wanted = model.generate(ids, max_new_tokens=9, do_sample=True, temperature=1.5)[0, ids.shape[1] :]
    assert told["tokens"] == wanted.tolist()
