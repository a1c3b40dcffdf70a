"""What each rank of ``ask`` and ``score`` does; see :mod:`tokenring_xdit.workers.loop`."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor
from transformers import TextStreamer

from tokenring_xdit.compat.transformers import cache_name
from tokenring_xdit.devices import rank_device
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.transformers import parallelize
from tokenring_xdit.pipelines.text_models import load_text_model
from tokenring_xdit.pipelines.text_orders import LoadText, Question, Said, ScoreText, TextScore
from tokenring_xdit.workers.loop import Commands, Mailbox
from tokenring_xdit.workers.messages import Progress
from tokenring_xdit.workers.world import join_world

__all__ = ["Conversation", "commands"]

_PATIENCE = timedelta(hours=1)


class _Teller(TextStreamer):  # type: ignore[misc]
    """Tells each piece of an answer as it comes."""

    def __init__(self, tokenizer: Any, mailbox: Mailbox) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._mailbox = mailbox

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Tell a piece."""
        if text:
            self._mailbox.answer(Progress(self._mailbox.number or 0, text))


class Conversation:
    """Questions and answers on one cache.

    Args:
        order: The model, and what it is about.
        device: This rank's.
        mailbox: Where pieces of answers go.
    """

    def __init__(self, order: LoadText, device: torch.device, mailbox: Mailbox) -> None:
        self._tokenizer, model = load_text_model(order.model, order.dtype)
        self._model = parallelize(model.to(device), tokenring_degree=dist.get_world_size())
        self._mailbox, self._device = mailbox, device
        self._context, self._limit = order.context, order.limit
        self._messages: list[dict[str, str]] = []
        self._cache = self._model.tokenring.cache()
        self._computed = torch.empty(1, 0, dtype=torch.long)

    def ask(self, question: Question) -> Said:
        """Answer a question, on all ranks together."""
        start = time.perf_counter()
        first = f"{self._context}\n\n{question.text}" if self._context and not self._messages else question.text
        self._messages.append({"role": "user", "content": first})
        ids = self._tokens()
        reused = self._reuse(ids)
        self._refuse_too_many(ids.shape[1], question.max_new_tokens)
        torch.manual_seed(question.seed)
        options: dict[str, Any] = {"do_sample": question.temperature > 0}
        if question.temperature > 0:
            options["temperature"] = question.temperature
        if question.stream and dist.get_rank() == 0:
            options["streamer"] = _Teller(self._tokenizer, self._mailbox)
        pad = self._tokenizer.pad_token_id
        whole = self._model.generate(
            ids.to(self._device),
            attention_mask=torch.ones_like(ids).to(self._device),
            max_new_tokens=question.max_new_tokens,
            pad_token_id=self._tokenizer.eos_token_id if pad is None else pad,
            **{cache_name(type(self._model).forward): self._cache},
            **options,
        ).cpu()
        self._computed = whole[:, : self._cache.length]
        said = whole[0, ids.shape[1] :]
        text = self._tokenizer.decode(said, skip_special_tokens=True)
        self._messages.append({"role": "assistant", "content": text})
        seconds = time.perf_counter() - start
        return Said(text, ids.shape[1], reused, len(said), tuple(said.tolist()), max(self._cache.held()), seconds)

    def score(self, text: str) -> TextScore:
        """Say how likely a text is, on all ranks together; the conversation stays as it is."""
        start = time.perf_counter()
        sent = self._model.tokenring.report()["bytes_sent"]
        ids = self._tokenizer(text, return_tensors="pt").input_ids.to(self._device)
        found = float(self._model.tokenring.score(ids).double().sum())
        sent = self._model.tokenring.report()["bytes_sent"] - sent
        return TextScore(ids.shape[1], found, sent, time.perf_counter() - start)

    def _refuse_too_many(self, prompt: int, answer: int) -> None:
        """Refuse what would put more keys on a rank than allowed, before anything is computed; alike on all ranks."""
        if self._limit is None:
            return
        placement = self._cache.placement
        placement = placement.plus(self._cache.spread(prompt - placement.length)[0])
        placement = placement.plus(placement.deal(answer))
        most = max(placement.count(rank) for rank in range(placement.ranks))
        if most > self._limit:
            raise UnsupportedError(
                f"{prompt} tokens, and up to {answer} of an answer, put keys of {most} tokens on a rank, where "
                f"{self._limit} are allowed: use more ranks than {placement.ranks}"
            )

    def _tokens(self) -> Tensor:
        """The whole conversation ``[1, S]``, as the model was taught to read one."""
        if self._tokenizer.chat_template is None:
            text = "\n".join(message["content"] for message in self._messages) + "\n"
        else:
            text = self._tokenizer.apply_chat_template(self._messages, add_generation_prompt=True, tokenize=False)
        special = self._tokenizer.chat_template is None
        ids: Tensor = self._tokenizer(text, return_tensors="pt", add_special_tokens=special).input_ids
        return ids

    def _reuse(self, ids: Tensor) -> int:
        """Leave in the cache what is the beginning of a conversation; returns how many tokens that is."""
        length = min(ids.shape[1] - 1, self._computed.shape[1])
        differing = (ids[0, :length] != self._computed[0, :length]).nonzero()
        reused = int(differing[0]) if len(differing) else length
        if reused == 0 or any(layer.window is not None for layer in self._cache.layers if reused < self._cache.length):
            self._cache.reset()  # layers with a window have forgotten what the tokens before would see
            return 0
        self._cache.crop(reused - self._cache.length)
        return reused


def commands(mailbox: Mailbox) -> Commands:
    """Join the other ranks; then load a model, and answer questions."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = rank_device()
    join_world(device, _PATIENCE, mailbox.store)
    conversations: list[Conversation] = []

    def load(order: LoadText) -> None:
        conversations.append(Conversation(order, device, mailbox))

    def ask(question: Question) -> Said:
        return conversations[-1].ask(question)

    def score(order: ScoreText) -> TextScore:
        return conversations[-1].score(order.text)

    return {LoadText: load, Question: ask, ScoreText: score}
