"""A model that is kept as GGUF, unpacked once: the folder holds what the file does."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.outputs import cache_folder
from tokenring_xdit.pipelines import text_models
from tokenring_xdit.pipelines.text_models import SMOLLM2, context_length, load_text_model, load_tokenizer, model_files
from tokenring_xdit.pipelines.unpacked import unpack, unpacked_folder

TEXT = "<|im_start|>user\nWhy is the sky blue?\n\n\tHéllo 世界 \u200b 1234567<|im_end|>"


@pytest.fixture(scope="module")
def file() -> Path:
    try:
        folder, options = model_files(SMOLLM2)
    except ConfigurationError as error:
        pytest.skip(str(error))
    return Path(folder, options["gguf_file"])


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tokenring-xdit" / "models"


@pytest.mark.e2e
def test_the_folder_holds_what_the_file_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_text_model(SMOLLM2, "bfloat16")
    assert found[1].config.name_or_path == str(unpacked_folder(file))
    with monkeypatch.context() as patched:
        patched.setattr(text_models, "unpack", lambda file: None)
        patched.setattr(text_models, "unpacked_folder", lambda file: file / "nowhere")
        read = load_text_model(SMOLLM2, "bfloat16")
        assert read[1].config.name_or_path == str(file.parent)
        length = context_length(SMOLLM2)
    assert length == context_length(SMOLLM2) == 8192
    assert kept(found[0]) == kept(read[0])
    weights, others = found[1].state_dict(), read[1].state_dict()
    assert list(weights) == list(others)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert found[1].generation_config.to_dict() == read[1].generation_config.to_dict()
    assert configured(found[1]) == configured(read[1])


def kept(tokenizer: Any) -> tuple[Any, ...]:
    ids = tokenizer(TEXT).input_ids
    return ids, tokenizer.decode(ids), tokenizer.chat_template, tokenizer.special_tokens_map, tokenizer.padding_side


def configured(model: Any) -> dict[str, Any]:
    left_out = {"_name_or_path", "quantization_config", "architectures"}
    return {name: value for name, value in model.config.to_dict().items() if name not in left_out}


@pytest.mark.e2e
def test_where_it_cannot_be_unpacked_the_file_is_read(
    file: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    empty.mkdir(parents=True)
    lock = os.open(empty / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        unpack(file)  # another process is at it
    finally:
        os.close(lock)
    assert [each.name for each in empty.iterdir()] == [".lock"]
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO):
        patched.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
        unpack(file)
    assert "as it could not be unpacked into" in caplog.text
    assert "the disk is full" in caplog.text
    assert [each.name for each in empty.iterdir()] == [".lock"]
    (empty / ".lock").unlink()
    empty.rmdir()
    empty.touch()
    unpack(file)  # nor where there can be no folder
    assert load_tokenizer(SMOLLM2)(TEXT).input_ids


def fail(*_: object, **__: object) -> None:
    raise SafetensorError("the disk is full")


def test_another_file_has_another_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    first = unpacked_folder(file)
    assert first.parent == cache_folder() / "models"
    os.utime(file, (1, 1))
    assert unpacked_folder(file) == first
    file.write_bytes(b"two")
    assert unpacked_folder(file) != first
