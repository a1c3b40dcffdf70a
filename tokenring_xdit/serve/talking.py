"""Answers of a language model: conversations that go on keep their keys on the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenring_xdit.defaults import KEPT_CHATS
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.pipelines.pending import Reply
from tokenring_xdit.pipelines.text_engine import Chat
from tokenring_xdit.serve.forecast import Forecast, hang_limit
from tokenring_xdit.serve.jobs import Job, Order, TextOrder

__all__ = ["AnswerTimes", "Talking"]


@dataclass(frozen=True)
class AnswerTimes:
    """What an answer took.

    Attributes:
        reply: The answer.
        first: Seconds to its first piece; ``None`` where it has none.
        token: Seconds of a token from then on; ``None`` where there was one piece only.
    """

    reply: Reply
    first: float | None
    token: float | None


class Talking:
    """Answers questions; see :class:`tokenring_xdit.serve.keeper.Craft`.

    Args:
        forecast: Learns from every answer, by the tokens that had to be read before it.
        on_answer: Is told of each.
        kept: Conversations that are remembered. Every one that the ranks keep has a place here, so that none of
            them is pushed out by another unforeseen.
    """

    def __init__(self, forecast: Forecast, on_answer: Callable[[AnswerTimes], None], kept: int = KEPT_CHATS) -> None:
        self._forecast, self._on_answer, self._kept = forecast, on_answer, kept
        self._chats: list[Chat] = []  # the one that was answered last is the last

    def make(self, engine: Engine, job: Job, most_silence: float) -> list[Any]:
        """Answer; returns the one reply."""
        order = _of(job.order)
        job.refuse_cancelled()
        engine.timeout = hang_limit(self._forecast.longest_silence(order.prompt_tokens), most_silence)
        began = time.monotonic()
        heard: list[float] = []
        chat = self._continued(engine, order.messages[:-1])
        pending = chat.submit(order.messages[-1]["content"], seed=order.seed, **order.options)
        job.interrupt = pending.cancel
        if job.cancelled is not None:  # before there was anything to interrupt
            pending.cancel()
        for piece in pending.pieces():
            heard.append(time.monotonic())
            job.speak(piece)
        reply = pending.result()
        self._chats.append(chat)  # one that failed is forgotten
        job.step = len(reply.tokens)
        self._learn(reply, began, heard)
        return [reply]

    def seconds(self, job: Job) -> float | None:
        """Seconds that are left at most: answers may end before they have as many tokens as they may."""
        order = _of(job.order)
        whole = self._forecast.seconds(order.prompt_tokens, order.answer_tokens)
        token = self._forecast.step_seconds(order.prompt_tokens) or 0.0
        return None if whole is None else max(0.0, whole - job.step * token)

    def _continued(self, engine: Engine, before: Sequence[Mapping[str, str]]) -> Chat:
        """The conversation that these messages are the whole of, or a new one; it is taken off the list."""
        found = next((chat for chat in self._chats if chat.messages == list(before)), None)
        self._chats = [chat for chat in self._chats if chat is not found]
        if found is not None:
            return found
        del self._chats[: max(0, len(self._chats) + 1 - self._kept)]  # whose keys are freed with the next question
        return engine.chat(messages=before)

    def _learn(self, reply: Reply, began: float, heard: list[float]) -> None:
        later = len(reply.tokens) - 1
        first = heard[0] - began if heard else None
        token = (heard[-1] - heard[0]) / later if len(heard) > 1 and later else None
        self._on_answer(AnswerTimes(reply, first, token))
        if first is not None and token is not None:
            self._forecast.learn(reply.prompt_tokens - reply.reused_tokens, token, first)


def _of(order: Order) -> TextOrder:
    assert isinstance(order, TextOrder)
    return order
