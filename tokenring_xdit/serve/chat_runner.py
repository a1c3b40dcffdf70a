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
from tokenring_xdit.serve.memory import MemoryForecast

__all__ = ["AnswerTimes", "ChatRunner"]


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


class ChatRunner:
    """Answers questions; see :class:`tokenring_xdit.serve.engine_owner.JobRunner`.

    Args:
        forecast: Learns from every answer: what a token takes after those before it, and reading those that were new.
        on_answer: Called with each.
        memory: Learns as well, by the tokens of a conversation and its answer.
        on_sent: Called with the bytes that ranks sent.
        on_exposed: Called with the share of an answer for which each rank waited.
        kept: Conversations that are remembered. Every one that the ranks keep has a place here, so that none of
            them is pushed out by another unforeseen.
    """

    def __init__(
        self,
        forecast: Forecast,
        on_answer: Callable[[AnswerTimes], None],
        memory: MemoryForecast | None = None,
        on_sent: Callable[[Sequence[int]], object] = lambda sent: None,
        on_exposed: Callable[[Sequence[float]], object] = lambda shares: None,
        kept: int = KEPT_CHATS,
    ) -> None:
        self._forecast, self._on_answer, self._kept = forecast, on_answer, kept
        self._memory = MemoryForecast() if memory is None else memory
        self._on_sent, self._on_exposed = on_sent, on_exposed
        self._chats: tuple[Chat, ...] = ()  # the one that was answered last is the last; other threads look through it
        self._answering: tuple[Job, int] | None = None  # the last one, and how many tokens it had to read

    def make(self, engine: Engine, job: Job, most_silence: float) -> list[Any]:
        """Answer; returns the one reply."""
        job.refuse_cancelled()
        new = self._new_tokens(job)
        self._answering = job, new  # whose conversation is off the list from now on
        # By all tokens: where the model's template writes earlier turns anew, they are read again.
        engine.timeout = hang_limit(self._forecast.longest_silence(_of(job.order).prompt_tokens), most_silence)
        return [self._answer(engine, job)]

    def seconds(self, job: Job) -> float | None:
        """Seconds that are left at most: answers may end before they have as many tokens as they may."""
        new = self._new_tokens(job)
        order = _of(job.order)
        whole = self._forecast.seconds(order.prompt_tokens, order.answer_tokens, rest_size=new)
        token = self._forecast.step_seconds(order.prompt_tokens) or 0.0
        return None if whole is None else max(0.0, whole - job.step * token)

    def peak_bytes(self, job: Job) -> int | None:
        """The most that a rank will hold, its model included."""
        order = _of(job.order)
        return self._memory.peak(order.prompt_tokens + order.answer_tokens)

    def _new_tokens(self, job: Job) -> int:
        """Tokens of a prompt that are to be read: those of a conversation that goes on are known to the ranks."""
        answering, order = self._answering, _of(job.order)
        if answering is not None and answering[0] is job:
            return answering[1]
        found = self._remembered(order.messages[:-1])
        return max(1, order.prompt_tokens - (0 if found is None else found.cached_tokens))

    def _answer(self, engine: Engine, job: Job) -> Reply:
        order = _of(job.order)
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
        self._chats = (*self._chats, chat)  # one that failed is forgotten
        job.step = len(reply.tokens)
        self._on_sent(engine.sent)
        self._on_exposed(engine.exposed)
        self._memory.learn(reply.prompt_tokens + len(reply.tokens), engine.memory)
        self._learn(reply, began, heard)
        return reply

    def _remembered(self, before: Sequence[Mapping[str, str]]) -> Chat | None:
        """The conversation that these messages are the whole of."""
        return next((chat for chat in self._chats if chat.messages == list(before)), None)

    def _continued(self, engine: Engine, before: Sequence[Mapping[str, str]]) -> Chat:
        """The conversation that these messages are the whole of, or a new one; it is taken off the list."""
        found = self._remembered(before)
        self._chats = tuple(chat for chat in self._chats if chat is not found)
        if found is not None:
            return found
        # Whose keys are freed with the next question.
        self._chats = self._chats[max(0, len(self._chats) + 1 - self._kept) :]
        return engine.chat(messages=before)

    def _learn(self, reply: Reply, began: float, heard: list[float]) -> None:
        later = len(reply.tokens) - 1
        first = heard[0] - began if heard else None
        token = (heard[-1] - heard[0]) / later if len(heard) > 1 and later else None
        self._on_answer(AnswerTimes(reply, first, token))
        if first is not None and token is not None:
            new = reply.prompt_tokens - reply.reused_tokens
            self._forecast.learn(reply.prompt_tokens, token, first, rest_size=new)


def _of(order: Order) -> TextOrder:
    assert isinstance(order, TextOrder)
    return order
