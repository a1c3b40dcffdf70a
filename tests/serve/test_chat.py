"""``tokenring-xdit serve`` with a language model on two ranks, against the model in one process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.test_text_engine import Reference
from tests.serve.client import Client
from tests.serve.servers import Served, ranks_of, ready, served, until
from tests.support.browser import Browser, browser, needs_browser
from tests.support.language import small_model_folder

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package)
openai = pytest.importorskip("openai")

pytestmark = pytest.mark.e2e

CHAT = "/v1/chat/completions"
MOST = 3000
FAR = 2500  # tokens: longer than a test
TOKENS = 24

QUESTION = {"role": "user", "content": "It was a dark and stormy night. Who did it?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small"
    small_model_folder(path)
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    words = (
        str(folder),
        "tokenring_degree=2",
        f"options={{max_new_tokens: {TOKENS}}}",
        "--max-tokens",
        str(MOST),
        "--ui",
    )
    with served(tmp_path_factory.mktemp("server"), folder.name, *words) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return server[1]


@pytest.fixture(scope="module")
def theirs(client: Client) -> Any:
    """The client of OpenAI."""
    return openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)


def under_way(client: Client, name: str, **more: Any) -> Any:
    """Begin an answer that takes long; returns its connection once a piece has come."""
    body = {"messages": [QUESTION], "max_tokens": FAR, **more}
    connection = client.open("POST", CHAT, body, {"X-Request-Id": name})
    until(lambda: (client.status(name) or {}).get("step", 0) >= 1)
    return connection


def answers(client: Client, reference: Reference) -> bool:
    said = client.ask("POST", CHAT, {"messages": [QUESTION]}).json
    return bool(said["choices"][0]["message"]["content"] == reference.next([QUESTION], max_new_tokens=TOKENS)[2])


def test_answers_are_those_of_one_process_and_a_conversation_goes_on(theirs: Any, reference: Reference) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, QUESTION]
    known = 0
    for _ in range(2):
        plain = [m if isinstance(m, dict) else {"role": m.role, "content": m.content} for m in messages]
        prompt, tokens, text = reference.next(plain, max_new_tokens=TOKENS)
        answer = theirs.chat.completions.create(model="small", messages=messages)
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", text)
        assert choice.finish_reason == "length"
        usage = answer.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, len(tokens))
        assert usage.total_tokens == prompt + len(tokens)
        assert (usage.prompt_tokens_details.cached_tokens > 0) == (known > 0)
        assert usage.prompt_tokens_details.cached_tokens >= known
        known = prompt
        messages += [choice.message, {"role": "user", "content": "Why?"}]


@needs_browser
def test_the_page_holds_a_conversation(client: Client, reference: Reference, tmp_path: Path) -> None:
    answers = "return [...document.querySelectorAll('#said .assistant')].map((each) => each.textContent)"
    said: list[dict[str, str]] = []
    with browser(tmp_path) as driver:
        page = Browser(driver)
        page.visit(f"http://127.0.0.1:{client.port}/", width=390)
        for words in (QUESTION["content"], "Why?"):
            page.until("document.querySelector('#send')?.offsetParent && !document.querySelector('#send').disabled")
            page.find("#words").send_keys(words)
            page.run("document.getElementById('question').requestSubmit()")
            page.until("document.querySelector('#said .assistant:last-child')?.textContent")
            page.until("!document.querySelector('#send').disabled")
            said.append({"role": "user", "content": words})
            said.append({"role": "assistant", "content": reference.next(said, max_new_tokens=TOKENS)[2]})
        assert page.run(answers) == [each["content"] for each in said[1::2]]
        page.find("#max_tokens").send_keys(str(FAR))
        page.find("#words").send_keys("And then?")
        page.run("document.getElementById('question').requestSubmit()")
        page.until("document.querySelectorAll('#said .assistant')[2]?.textContent")
        page.run("document.getElementById('stop').click()")
        page.until("!document.querySelector('#send').disabled")
        newest = client.ask("GET", "/v1/requests?limit=1").json["data"][0]
        assert (newest["status"], newest["kind"]) == ("cancelled", "text")
        assert page.run(answers)[2]  # what had come stays
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_a_stream_is_the_answer_and_ends_with_its_usage(theirs: Any, reference: Reference) -> None:
    prompt, tokens, text = reference.next([QUESTION], max_new_tokens=40)
    chunks = list(
        theirs.chat.completions.create(
            model="small", messages=[QUESTION], max_tokens=40, stream=True, stream_options={"include_usage": True}
        )
    )
    *said, last = chunks
    pieces = [chunk.choices[0].delta.content for chunk in said if chunk.choices[0].delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == text
    assert said[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in said] == [None] * (len(said) - 1) + ["length"]
    assert {chunk.usage for chunk in said} == {None}
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], prompt, len(tokens))
    without = theirs.chat.completions.create(model="small", messages=[QUESTION], max_tokens=3, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in without)


def test_a_stop_ends_an_answer_whole_and_in_a_stream(theirs: Any, reference: Reference) -> None:
    text = reference.next([QUESTION], max_new_tokens=40)[2]
    at = next(i for i in range(3, len(text)) if text.find(text[i : i + 2]) == i and "\ufffd" not in text[i : i + 2])
    ask: dict[str, Any] = {"model": "small", "messages": [QUESTION], "max_tokens": 40, "stop": [text[at : at + 2]]}
    whole = theirs.chat.completions.create(**ask)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (text[:at], "stop")
    assert whole.usage.completion_tokens < 40
    chunks = list(theirs.chat.completions.create(**ask, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[:at]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_drawn_tokens_are_those_of_their_seed(theirs: Any, reference: Reference) -> None:
    import torch

    ask: dict[str, Any] = {"model": "small", "messages": [QUESTION], "temperature": 0.9, "top_p": 0.95}
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        wanted = reference.next([QUESTION], max_new_tokens=TOKENS, do_sample=True, temperature=0.9, top_p=0.95)[2]
        texts.append(theirs.chat.completions.create(**ask, seed=seed).choices[0].message.content)
        assert texts[-1] == wanted
    assert texts[0] == texts[1] != texts[2]


def test_what_is_refused_never_waited(client: Client, theirs: Any) -> None:
    before = len(client.ask("GET", "/v1/requests").json["data"])
    with pytest.raises(openai.BadRequestError, match=f"tokens and up to {MOST} of an answer are 3.*{MOST} together"):
        theirs.chat.completions.create(model="small", messages=[QUESTION], max_tokens=MOST)
    with pytest.raises(openai.BadRequestError, match="logprobs: True is not taken here, only false"):
        theirs.chat.completions.create(model="small", messages=[QUESTION], logprobs=True)
    with pytest.raises(openai.NotFoundError, match="there is no 'gpt' here"):
        theirs.chat.completions.create(model="gpt", messages=[QUESTION])
    assert client.ask("POST", CHAT, b'{"messages": ').status == 400
    pictures = client.ask("POST", "/v1/images/generations", {"prompt": "a fox"})
    assert (pictures.status, "as 'small' makes no images" in pictures.error["message"]) == (404, True)
    assert len(client.ask("GET", "/v1/requests").json["data"]) == before


def test_the_model_is_described(theirs: Any, client: Client) -> None:
    assert [model.id for model in theirs.models.list()] == ["small"]
    model = client.ask("GET", "/v1/models/small").json
    assert model["limits"]["tokens"] == MOST
    assert model["defaults"] == {"max_tokens": TOKENS}
    assert model["ranks"] == {"tokenring": 2, "tokens_per_rank": None}


def test_an_answer_is_cancelled_by_its_name(client: Client, reference: Reference) -> None:
    connection = under_way(client, "cancelled")
    assert client.ask("DELETE", "/v1/requests/cancelled").status == 200
    answer = client.answer(connection)
    assert (answer.status, answer.error["code"]) == (499, "cancelled")
    assert client.status("cancelled")["step"] < FAR
    streamed = under_way(client, "streamed", stream=True)
    client.ask("DELETE", "/v1/requests/streamed")
    last = client.answer(streamed).body.decode().rstrip().rpartition("data: ")[2]
    assert json.loads(last)["error"]["code"] == "cancelled"
    assert answers(client, reference)


def test_a_long_prompt_is_given_up_while_it_is_read(client: Client, server: Served, reference: Reference) -> None:
    before = {rank: each.pid for rank, each in ranks_of(server[0]).items()}
    long = {"role": "user", "content": "It was a dark and stormy night. " * (FAR // 32)}
    steps: list[int] = []
    while 0 not in steps:  # it may have been read before its client is heard
        assert len(steps) < 50
        name = f"read-{len(steps)}"
        connection = client.open("POST", CHAT, {"messages": [long], "max_tokens": 400}, {"X-Request-Id": name})
        until(lambda name=name: (client.status(name) or {}).get("status") == "running")  # type: ignore[misc]
        assert client.ask("DELETE", f"/v1/requests/{name}").status == 200
        answer = client.answer(connection)
        assert (answer.status, answer.error["code"]) == (499, "cancelled")
        steps.append(client.status(name)["step"])
    assert {rank: each.pid for rank, each in ranks_of(server[0]).items()} == before
    assert answers(client, reference)


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.matrix), True])
def test_a_client_that_goes_away_is_not_answered(client: Client, reference: Reference, stream: bool) -> None:
    under_way(client, f"gone-{stream}", stream=stream).close()
    until(lambda: client.status(f"gone-{stream}")["status"] == "cancelled")
    assert client.status(f"gone-{stream}")["step"] < FAR
    assert answers(client, reference)


def test_a_rank_that_is_killed_in_the_middle(client: Client, server: Served, reference: Reference) -> None:
    connection = under_way(client, "killed")
    process: subprocess.Popen[str] = server[0]
    ranks_of(process)[1].kill()
    answer = client.answer(connection)
    assert (answer.status, answer.error["code"]) == (500, "rank_failed")
    assert "rank 1 was killed by SIGKILL" in answer.error["message"]
    until(lambda: ready(client))
    assert answers(client, reference)


def test_figures(client: Client) -> None:
    figures = client.figures()
    known = [job["status"] for job in client.ask("GET", "/v1/requests").json["data"]]
    outcomes = {o: figures[f'tokenring_requests_total{{kind="text",outcome="{o}"}}'] for o in ("done", "cancelled")}
    assert outcomes == {outcome: known.count(outcome) for outcome in outcomes}
    assert figures['tokenring_requests_total{kind="text",outcome="refused"}'] == 4
    assert figures["tokenring_first_token_seconds_count"] == outcomes["done"]
    assert figures['tokenring_tokens_total{kind="answer"}'] > TOKENS * outcomes["done"] / 2
    assert 0 < figures['tokenring_tokens_total{kind="reused"}'] < figures['tokenring_tokens_total{kind="prompt"}']
