"""Forecasts of answers, by conversations that are made up; no ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.serve.made_up import GIB
from tokenring_xdit.pipelines.messages import MemoryUse
from tokenring_xdit.pipelines.pending import Reply
from tokenring_xdit.serve.chat_runner import ChatRunner
from tokenring_xdit.serve.forecast import Forecast
from tokenring_xdit.serve.jobs import Job, TextOrder

HELLO = {"role": "user", "content": "Hello."}
HI = {"role": "assistant", "content": "Hi."}

LONG, NEW, ANSWER = 10_000, 10, 4


class MadeUpChat:
    """A conversation whose tokens the ranks keep; each answer is of four tokens."""

    def __init__(self, messages: Any, look: Any) -> None:
        self.messages, self.cached_tokens, self.look = list(messages), 0, look

    def submit(self, question: str, **options: Any) -> Any:
        """Answer."""
        prompt, reused = (LONG + NEW, LONG) if self.cached_tokens else (LONG, 0)
        self.messages += [{"role": "user", "content": question}, HI]

        def pieces() -> Any:
            for _ in range(ANSWER):
                self.look()
                yield "x"
            self.cached_tokens = LONG

        reply = Reply("Hi.", (1,) * ANSWER, prompt, reused, False, (), 0, 0.0)
        return SimpleNamespace(pieces=pieces, result=lambda: reply, cancel=lambda: None)


def asked(prompt_tokens: int, *messages: dict[str, str]) -> Job:
    order = TextOrder("text", 0, messages, {}, prompt_tokens, ANSWER)
    return Job(order, lambda event: None)


def test_a_conversation_that_goes_on_is_foretold_by_its_new_tokens() -> None:
    forecast = Forecast()
    forecast.learn(NEW, 1.0, 5.0)
    forecast.learn(LONG, 100.0, 5000.0)
    learned: list[tuple[int, int]] = []
    forecast.learn = lambda size, *seconds, rest_size: learned.append((size, rest_size))  # type: ignore[method-assign]
    talking, left = ChatRunner(forecast, lambda times: None), list[Any]()
    engine: Any = SimpleNamespace(
        sent=(7,),
        exposed=(),
        memory=(MemoryUse(GIB, 2 * GIB, 16 * GIB),),
        chat=lambda messages: MadeUpChat(messages, lambda: left.append(talking.seconds(now))),
    )
    now = asked(LONG, HELLO)
    assert talking.seconds(now) == 4 * 100 + 5000
    talking.make(engine, now, 1800.0)
    left.clear()
    now = asked(LONG + NEW, HELLO, HI, HELLO)
    token = forecast.step_seconds(LONG + NEW)
    assert token == pytest.approx(100, rel=0.01)  # each token looks at all before it, whether they were read now or not
    assert talking.seconds(now) == pytest.approx(4 * token + 5)  # while it waits
    assert talking.seconds(asked(LONG + NEW, HELLO, HELLO)) > 5000  # another conversation
    talking.make(engine, now, 1800.0)
    assert left == pytest.approx([each * token + 5 for each in (4, 3, 2, 1)])  # while it is answered
    assert learned == [(LONG, LONG), (LONG + NEW, NEW)]
    assert talking.peak_bytes(now) == 2 * GIB
    assert engine.timeout == pytest.approx(1800)  # as all might have to be read
