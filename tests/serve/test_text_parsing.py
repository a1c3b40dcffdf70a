"""What is refused of questions before they wait, and what becomes of the others; no ranks."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from tests.support.language import small_model_folder
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.serve.chat_schema import ChatBody
from tokenring_xdit.serve.config import RequestLimits, TextServeConfig
from tokenring_xdit.serve.errors import problem_of
from tokenring_xdit.serve.schema import refused
from tokenring_xdit.serve.text_parsing import TextParser

MOST = 200

HELLO = {"role": "user", "content": "Hello."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    small_model_folder(path)
    return path


def parser_of(folder: Path, *values: str, most: int | None = MOST) -> TextParser:
    config = read_config(TextServeConfig, None, [f"model={folder}", *values])
    ready: Any = SimpleNamespace(refuse_unready=lambda: None, engine=object())
    parser = TextParser(config, RequestLimits(tokens=most), ready)
    parser.load()
    return parser


@pytest.fixture(scope="module")
def parser(folder: Path) -> TextParser:
    return parser_of(folder, "options={max_new_tokens: 20}")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"max_token": 3}, "max_token", "no field 'max_token'. Known: .* Did you mean 'max_tokens'"),
    "functions": ({"functions": []}, "functions", "there is no field 'functions'"),
    "tools": ({"tools": [{"type": "function"}]}, "tools", r"is not taken here, only \[\], which changes nothing"),
    "penalty": ({"frequency_penalty": 0.5}, "frequency_penalty", "0.5 is not taken here, only 0, which"),
    "no number": ({"presence_penalty": False}, "presence_penalty", "False is not taken here, only 0, which"),
    "logprobs": ({"logprobs": True}, "logprobs", "True is not taken here, only false, which"),
    "form": (
        {"response_format": {"type": "json_object"}},
        "response_format",
        r'is not taken here, only \{"type": "text"\}, which',
    ),
    "tier": ({"service_tier": "flex"}, "service_tier", '\'flex\' is not taken here, only "auto" or "default", which'),
    "no list": ({"messages": "Hello."}, "messages", "'Hello.' is not a list of at least one message"),
    "none": ({"messages": []}, "messages", "at least one message"),
    "text": ({"messages": ["Hello."]}, "messages.0", "not an object with a role"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'system', 'user' or 'assistant'"),
    "odd role": ({"messages": [{"role": [1], "content": "x"}]}, "messages.0.role", r"\[1\] is not allowed"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content", "is missing"),
    "name": ({"messages": [HELLO, {**HELLO, "name": "Al"}]}, "messages.1.name", "there is no field 'messages.1.name'"),
    "null": ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "neither text nor a list"),
    "empty": ({"messages": [{"role": "user", "content": " "}]}, "messages", "the last one is empty"),
    "surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "Unicode"),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        "messages.0.content",
        "is no part of the type 'text'",
    ),
    "last": ({"messages": [HELLO, {"role": "assistant", "content": "Hi."}]}, "messages", "has the role 'assistant'"),
    "long": (
        {"messages": [{"role": "user", "content": "a" * 300}]},
        "messages",
        r"3\d\d tokens leave no answer, and 200 together are the most",
    ),
    "longer": ({"max_tokens": 190}, "messages", r"\d+ tokens and up to 190 of an answer are 2\d\d, and 200 together"),
    "most": ({"max_completion_tokens": 10**7}, "max_completion_tokens", "from 1 to 1000000"),
    "two": ({"max_completion_tokens": 7, "max_tokens": 8}, "max_tokens", "leave one of them out"),
    "zero": ({"max_tokens": 0}, "max_tokens", "has to be at least 1"),
    "hot": ({"temperature": 3}, "temperature", "has to be at most 2"),
    "nucleus": ({"top_p": 0}, "top_p", "0"),
    "greedy": ({"temperature": 0, "top_p": 0.5}, "temperature", "means greedy decoding, and top_p=0.5"),
    "several": ({"n": 2}, "n", "2 answers at once are not made here"),
    "stop": ({"stop": ["a"] * 5}, "stop", "a list of up to 4 texts"),
    "no stop": ({"stop": ""}, "stop", "none of them empty"),
    "streams": ({"stream_options": {"include_usage": True}}, "stream_options", "needs a stream"),
    "usage": ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "there is no field"),
    "model": ({"model": "gpt-4"}, "model", "there is no 'gpt-4' here"),
}


@pytest.mark.parametrize(("more", "param", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_the_field(parser: TextParser, more: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises((TokenRingError, ValidationError)) as raised:
        parser.answer(ChatBody.model_validate({"messages": [HELLO], **more}))
    error = raised.value
    if isinstance(error, ValidationError):
        details: list[Any] = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        error = refused(details, tuple(ChatBody.model_fields))
    problem = problem_of(cast("Exception", error))
    assert problem.status == (404 if param == "model" else 400)
    assert problem.param == param
    assert re.search(words, problem.message)
    assert "\n" not in problem.message


def test_what_is_said_becomes_options(parser: TextParser) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]}
    body = {"messages": [parts], "temperature": 0, "top_p": 1, "stop": "x", "max_completion_tokens": 5, "seed": 3}
    order = parser.answer(ChatBody.model_validate(body))
    assert order.messages == (HELLO,)
    assert order.options == {"max_new_tokens": 5, "temperature": 0, "stop": "x"}
    assert (order.seed, order.answer_tokens) == (3, 5)
    assert order.prompt_tokens == len("<user>Hello.<assistant>") + 1  # a token for each byte, one for the end


def test_what_changes_nothing_is_taken(parser: TextParser) -> None:
    neutral = {
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "logprobs": False,
        "top_logprobs": None,
        "response_format": {"type": "text"},
        "store": False,
        "tools": [],
        "tool_choice": "none",
        "user": "me",
    }
    plain = parser.answer(ChatBody(messages=[HELLO], seed=1))
    assert parser.answer(ChatBody.model_validate({"messages": [HELLO], "seed": 1, **neutral})) == plain


def test_an_answer_may_be_sent_back_as_it_came(parser: TextParser) -> None:
    openai = pytest.importorskip("openai")
    message = openai.types.chat.ChatCompletionMessage(role="assistant", content="Hi.", refusal=None)
    for said in (message.model_dump(), message.model_dump(exclude_unset=True)):
        order = parser.answer(ChatBody(messages=[HELLO, said, HELLO]))
        assert order.messages[1] == {"role": "assistant", "content": "Hi."}
    with pytest.raises(TokenRingError, match=r"there is no field 'messages\.1\.refusal'"):
        parser.answer(ChatBody(messages=[HELLO, {**said, "refusal": "No."}, HELLO]))


def test_where_nothing_is_said_the_answer_has_the_room_that_is_left(folder: Path, parser: TextParser) -> None:
    assert parser.answer(ChatBody(messages=[HELLO])).answer_tokens == 20
    long = [{"role": "user", "content": "a" * 165}]
    assert 0 < parser.answer(ChatBody(messages=long)).answer_tokens < 20
    assert parser_of(folder, most=None).described()["limits"]["tokens"] == 4096  # which its configuration says
    assert parser.described()["defaults"] == {"max_tokens": 20}
