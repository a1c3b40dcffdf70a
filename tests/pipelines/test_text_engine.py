"""``Engine`` with a language model on real ranks, against the unmodified model in one process."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.language import small_model_folder
from tokenring_xdit import Chat, Engine
from tokenring_xdit.errors import CancelledError, ConfigurationError, EngineError, TokenRingError, UnsupportedError

BOOK = "It was a dark and stormy night; the rain fell in torrents. " * 4
QUESTIONS = ["Who did it?", "Why?", "And then?"]
ANSWER = 12
FAR = 3000
"""Tokens: longer than any of these tests."""


class Reference:
    """The same model in this process, as transformers has it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.no_grad()
    def next(self, messages: list[dict[str, str]], **options: Any) -> tuple[int, list[int], str]:
        """How many tokens a conversation has, those that come next, and these as text."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        options = {"max_new_tokens": ANSWER, "do_sample": False, **options}
        said = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
        return ids.shape[1], said, self.tokenizer.decode(said, skip_special_tokens=True)


@pytest.fixture(scope="module", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Logs that errors name go where pytest cleans up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("engines")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small"
    small_model_folder(path)
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    """One engine of three ranks, for questions good and bad."""
    with Engine(str(folder), tokenring_degree=3) as engine:
        yield engine


def asked(chat: Chat, question: str, reference: Reference, **options: Any) -> None:
    """Ask a question, and compare."""
    before = chat.messages or [{"role": "user", "content": f"{BOOK}\n\n{question}"}]
    wanted = before if not chat.messages else [*before, {"role": "user", "content": question}]
    prompt, tokens, text = reference.next(wanted)
    assert chat.ask(question, max_new_tokens=ANSWER, **options) == text
    assert chat.reply is not None
    assert list(chat.reply.tokens) == tokens
    assert chat.reply.prompt_tokens == prompt
    assert chat.messages == [*wanted, {"role": "assistant", "content": text}]


def in_the_middle(chat: Chat, do: Callable[[], object]) -> BaseException:
    """What a long answer raises when something happens after its second piece."""
    pieces = chat.ask("Go on.", stream=True, max_new_tokens=FAR)
    next(pieces)
    next(pieces)
    do()
    with pytest.raises((TokenRingError, KeyboardInterrupt)) as raised:
        for _ in pieces:
            pass
    return raised.value


@pytest.mark.e2e
@pytest.mark.smoke
def test_three_turns_equal_one_process_and_compute_their_own_tokens_only(engine: Engine, reference: Reference) -> None:
    chat = engine.chat(context=BOOK)
    known = 0
    for question in QUESTIONS:
        asked(chat, question, reference)
        assert chat.reply is not None
        assert chat.reply.reused_tokens >= known
        known = chat.reply.prompt_tokens
        assert max(chat.reply.keys) <= (known + ANSWER) / 3 + 64
        assert chat.cached_tokens >= known
    before = engine.processes
    pieces = chat.ask("And?", stream=True, max_new_tokens=ANSWER)
    assert "".join(pieces) == chat.messages[-1]["content"]
    assert isinstance(in_the_middle(chat, lambda: os.kill(engine.processes[1], signal.SIGKILL)), EngineError)
    chat = engine.chat(context=BOOK)
    asked(chat, QUESTIONS[0], reference)
    assert engine.processes != before
