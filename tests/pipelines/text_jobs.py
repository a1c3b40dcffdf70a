"""What the worker ranks run in the tests of a language model on a rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tokenring_xdit.errors import CancelledError, ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.transformers.session import Session
from tokenring_xdit.pipelines.text_model import TextModel
from tokenring_xdit.pipelines.text_models import load_text_model
from tokenring_xdit.pipelines.text_options import TextOptions
from tokenring_xdit.pipelines.text_orders import ChatMessage, LoadText, Question
from tokenring_xdit.pipelines.text_prompt import conversation_tokens

__all__ = ["computed_tokens", "given_up", "refused_questions"]


def computed_tokens(folder: str, questions: list[str], answer: int) -> list[tuple[Any, ...]]:
    """Ask questions in one chat.

    Returns:
        Of each the tokens of the prompt, those of the answer, those that one process answers, and how many were
        computed.
    """
    tokenizer, whole = load_text_model(folder, "float32")
    computed: list[int] = []
    compute = Session.compute

    def counting(self: Session, decoder: Any, inputs: Any, *args: Any) -> Any:
        computed.append(inputs.ids.shape[1])
        return compute(self, decoder, inputs, *args)

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "compute", counting)
        model = TextModel(LoadText(folder, "float32"), torch.device("cpu"))
        said: list[ChatMessage] = []
        for question in questions:
            said.append(ChatMessage("user", question))
            reply = model.answer(Question(1, tuple(said), TextOptions(max_new_tokens=answer)))
            ids = torch.tensor([conversation_tokens(tokenizer, said)])
            with torch.no_grad():
                wanted = whole.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=answer)
            said.append(ChatMessage("assistant", reply.text))
            found.append((reply.prompt_tokens, reply.tokens, (*wanted[0, ids.shape[1] :].tolist(),), sum(computed)))
            computed.clear()
    return found


def refused_questions(folder: str, limit: int) -> list[dict[int, int]]:
    """Which chats' keys are kept after two questions, after two that are refused, and after one more."""
    model = TextModel(LoadText(folder, "float32", limit=limit, chats=2), torch.device("cpu"))

    def ask(chat: int, text: str) -> dict[int, int]:
        model.answer(Question(chat, (ChatMessage("user", text),), TextOptions(max_new_tokens=2)))
        return model.kept

    found = [ask(1, "One?"), ask(2, "Two?")]
    with pytest.raises(UnsupportedError, match=f"where {limit} are allowed"):
        ask(3, "Three?" * limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model._tokenizer, "chat_template", "{{ raise_exception('only a robot may ask') }}")
        with pytest.raises(ConfigurationError, match="does not take this conversation: only a robot may ask"):
            ask(4, "Four?")
    return [*found, model.kept, ask(1, "One?")]


def given_up(folder: str, heard: int) -> tuple[list[dict[int, int]], int, list[tuple[int, ...]]]:
    """Give a question up while its prompt is read, after ``heard`` calls of the listener, and ask it again.

    Returns:
        What was kept before and after; how often the first rank was asked; the answer, and that of a chat of its own.
    """
    model, words = TextModel(LoadText(folder, "float32"), torch.device("cpu")), []
    options = TextOptions(max_new_tokens=6)
    said = [ChatMessage("user", "One?")]
    said.append(ChatMessage("assistant", model.answer(Question(1, tuple(said), options)).text))
    said.append(ChatMessage("user", "It was a dark and stormy night. " * 9))
    kept = [model.kept]

    def tell(piece: str) -> bool:
        words.append(piece)
        return len(words) >= heard

    with pytest.raises(CancelledError, match="while its prompt was read"):
        model.answer(Question(1, tuple(said), options), tell if dist.get_rank() == 0 else None)
    kept.append(model.kept)
    return kept, len(words), [model.answer(Question(chat, tuple(said), options)).tokens for chat in (1, 2)]
